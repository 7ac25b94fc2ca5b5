"""What a step of a real run spends on neither model, loss, backward pass nor optimizer.

An R18 trains on the built-in data set as ``python train.py`` does: loader processes, TensorBoard, figures recorded after
every step (log_every=1; by default one step in ten is recorded), the weight average. A step that other processes
disturbed is left out and one more is trained.
"""

import argparse
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from neo_model.benchmark.measure import MOST_RETAKES, is_disturbed, seconds_of_other_processes, timings_of_parts
from neo_model.benchmark.step_parts import PARTS, learner_watchers, watched
from neo_model.benchmark.subjects import our_criterion, our_model, size_argument
from neo_model.benchmark.table import Report, Row, Table
from neo_model.data import ShapesData
from neo_model.data.resolution import Resolution
from neo_model.data.transforms import Augmentation
from neo_model.engine import EvaluationPlan, Runner, RunSettings
from neo_model.engine.batch_norm import BatchNormStatistics
from neo_model.engine.console import ProgressLine
from neo_model.engine.hardware import Hardware
from neo_model.engine.loggers import TensorBoardLogger
from neo_model.engine.step_recorder import StepRecorder
from neo_model.engine.training_loop import Batch, train_one_epoch
from neo_model.optim import AdamW, Constant, Ema

WAIT, REST = "waiting for a batch", "everything else"
LOOP, BESIDE = "loop, all of it", "loss, gradient's norm and loop"
SHARE = f"{BESIDE}, share of the step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--size", type=size_argument, default=(640, 640), help="WIDTHxHEIGHT (640x640)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="(auto)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (2)")


def run(arguments: argparse.Namespace) -> Report:
    """Train until ``rounds`` steps after the warm-up were not disturbed, or often enough."""
    logging.getLogger("neo_model").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        most = arguments.warmup + arguments.rounds * (1 + MOST_RETAKES)
        batches = step_times(make_runner(Path(folder), arguments, steps=most), arguments.warmup, arguments.rounds)
    steps, retakes, disturbed = batches.least_disturbed()
    of_loop = [part for part in steps[-1] if part not in ("step", *PARTS)]
    for step in steps:
        step[LOOP] = sum(step[part] for part in of_loop)
        step[BESIDE] = step["loss"] + step["gradient's norm"] + step[LOOP]
        step[SHARE] = step[BESIDE] / step["step"]
    order = ["step", *PARTS, BESIDE, SHARE, LOOP, *of_loop]
    timings = timings_of_parts(order, steps, retakes=retakes, disturbed=disturbed)
    rows = [Row(part, timing, "%" if part == SHARE else "ms") for part, timing in timings.items()]
    height, width = arguments.size
    title = f"R18 {width}x{height}, batch {arguments.batch}, {len(steps)} steps of a run"
    return Report("loop", [Table(title, rows, "step")])


def make_runner(folder: Path, arguments: argparse.Namespace, *, steps: int) -> Runner:
    """A run of so many steps."""
    height, width = arguments.size
    data = ShapesData(
        root=str(folder / "shapes"),
        num_train=arguments.batch * steps,
        num_val=4,  # the least of which some surely hold objects
        resolution=Resolution(width=width, height=height, any_aspect=True),
        augment=Augmentation(flip=0.5, color=0.5),
    )
    data.prepare()
    hardware = Hardware(
        device=arguments.device,
        precision=arguments.precision,
        batch_size=arguments.batch,
        workers=arguments.workers,
    )
    hardware.set_backends()
    train_loader = data.train_loader(seed=0, **hardware.loading)
    train_loader.start_workers()
    return Runner(
        model=our_model(18),
        criterion=our_criterion(),
        data=data,
        train_loader=train_loader,
        optim=AdamW(lr=1e-4, clip_norm=0.1),
        schedule=Constant(),
        ema=Ema(),
        plan=EvaluationPlan(),
        loggers=[TensorBoardLogger()],
        hardware=hardware,
        settings=RunSettings(epochs=1, log_every=1),
        run_dir=folder,
        config={},
    )


def step_times(runner: Runner, warmup: int, rounds: int) -> "TimedIterator":
    """Seconds of every part of every step.

    On a GPU the host learns one step later what came of a step: its records count to the next one.
    """
    learner = runner.learner
    with ProgressLine(runner.total_steps, 0) as line:
        recorder = StepRecorder(runner, line)
        for logger in runner.loggers:
            logger.start(runner.run_dir, {}, None)
        batches = TimedIterator(runner.train_loader.epoch(0, start_batch=0), warmup, rounds)
        watchers = [
            *learner_watchers(learner),
            (runner.hardware, "place", "images to the device"),
            (learner.optimizer, "zero_grad", "gradients let go"),
            (BatchNormStatistics, "copy", "statistics kept in case"),
            (BatchNormStatistics, "put_back", "statistics kept in case"),
            (learner.ema, "update_parameters", "average of the weights"),
            (learner.scheduler, "step", "schedule"),
            (runner, "record", "records: metrics.jsonl, TensorBoard"),
        ]
        with watched(watchers, batches.spent, learner.model.pixel_mean.device):
            train_one_epoch(learner, batches, runner.progress, runner.hardware, after_step=recorder)
    runner.train_loader.close()
    for logger in runner.loggers:
        logger.close()
    return batches


class TimedIterator:
    """Hands batches on until ``rounds`` steps were not disturbed; between two requests lies a step.

    Attributes:
        spent: seconds of the parts of the step in progress, for others to add to.
        steps: those of each step after the warm-up so far, with ``step``, the whole, and what no part accounts for.
        foreign: of each, the CPU time of other processes, 0 where it is tolerable.
    """

    def __init__(self, batches: Iterator[Batch], warmup: int, rounds: int) -> None:
        self.batches, self.warmup, self.rounds = batches, warmup, rounds
        self.spent: dict[str, float] = defaultdict(float)
        self.steps: list[dict[str, float]] = []
        self.foreign: list[float] = []
        self._asked = self._foreign = None

    def __iter__(self) -> "TimedIterator":
        return self

    def __next__(self) -> Batch:
        now, foreign = time.perf_counter(), seconds_of_other_processes() or 0.0
        if self._asked is not None:
            self._end_step(now - self._asked, foreign - self._foreign)
        if self.foreign.count(0.0) == self.rounds:
            raise StopIteration
        self._asked, self._foreign = time.perf_counter(), foreign
        batch = next(self.batches)
        self.spent[WAIT] = time.perf_counter() - self._asked
        return batch

    def least_disturbed(self) -> tuple[list[dict[str, float]], int, int]:
        """The ``rounds`` steps that count, how many were left out, and how many count although they were disturbed."""
        order = sorted(range(len(self.steps)), key=lambda step: self.foreign[step])[: self.rounds]
        disturbed = sum(self.foreign[step] > 0 for step in order)
        return [self.steps[step] for step in order], len(self.steps) - len(order), disturbed

    def _end_step(self, seconds: float, foreign: float) -> None:
        if self.warmup:
            self.warmup -= 1
        else:
            self.steps.append({"step": seconds, **self.spent, REST: seconds - sum(self.spent.values())})
            self.foreign.append(foreign if is_disturbed(foreign, seconds) else 0.0)
        self.spent.clear()
