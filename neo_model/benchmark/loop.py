"""What a step of a real run spends on neither model, loss, backward pass nor optimizer.

An R18 trains on the built-in data set as ``python train.py`` does: loader processes, TensorBoard, figures recorded after
every step (log_every=1; by default one step in ten is recorded), the weight average.
"""

import argparse
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from neo_model.benchmark.measure import Timing, is_disturbed, seconds_of_other_processes
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
LOOP, BESIDE = "loop, all of it", "loss, clipping and loop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--size", type=size_argument, default=(640, 640), help="WIDTHxHEIGHT (640x640)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="(auto)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes (2)")


def run(arguments: argparse.Namespace) -> Report:
    """Train ``warmup + rounds`` steps; the warm-up's are not counted."""
    logging.getLogger("neo_model").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        steps, disturbed = step_times(make_runner(Path(folder), arguments))
    steps, disturbed = steps[arguments.warmup :], sum(disturbed[arguments.warmup :])
    of_loop = [part for part in steps[-1] if part not in ("step", *PARTS)]
    for step in steps:
        step[LOOP] = sum(step[part] for part in of_loop)
        step[BESIDE] = step["loss"] + step["clipping"] + step[LOOP]
    order = ["step", *PARTS, BESIDE, LOOP, *of_loop]
    timings = {part: Timing(tuple(step[part] for step in steps), disturbed=disturbed) for part in order}
    height, width = arguments.size
    title = f"R18 {width}x{height}, batch {arguments.batch}, {len(steps)} steps of a run"
    return Report("loop", [Table(title, [Row(part, timing, "ms") for part, timing in timings.items()], "step")])


def make_runner(folder: Path, arguments: argparse.Namespace) -> Runner:
    """A run of ``warmup + rounds`` steps."""
    height, width = arguments.size
    num_images = arguments.batch * (arguments.warmup + arguments.rounds)
    data = ShapesData(
        root=str(folder / "shapes"),
        num_train=num_images,
        num_val=4,  # the least of which some surely hold objects
        resolution=Resolution(width=width, height=height, any_aspect=True),
        augment=Augmentation(flip=0.5, color=0.5),
    )
    data.prepare()
    return Runner(
        model=our_model(18),
        criterion=our_criterion(),
        data=data,
        optim=AdamW(lr=1e-4, clip_norm=0.1),
        schedule=Constant(),
        ema=Ema(),
        plan=EvaluationPlan(),
        loggers=[TensorBoardLogger()],
        hardware=Hardware(
            device=arguments.device,
            precision=arguments.precision,
            batch_size=arguments.batch,
            workers=arguments.workers,
        ),
        settings=RunSettings(epochs=1, log_every=1),
        run_dir=folder,
        config={},
    )


def step_times(runner: Runner) -> tuple[list[dict[str, float]], list[bool]]:
    """Seconds of every part of every step, and whether other processes ran meanwhile.

    On a GPU the host learns one step later what came of a step: its records count to the next one.
    """
    learner = runner.learner
    with ProgressLine(runner.total_steps, 0) as line:
        recorder = StepRecorder(runner, line)
        for logger in runner.loggers:
            logger.start(runner.run_dir, {}, None)
        batches = TimedIterator(runner.train_loader.epoch(0, start_batch=0))
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
    return batches.steps, batches.disturbed


class TimedIterator:
    """Hands batches on; between two requests lies a step.

    Attributes:
        spent: seconds of the parts of the step in progress, for others to add to.
        steps: those of each step so far, with ``step``, the whole, and what no part accounts for.
        disturbed: of each, whether other processes ran meanwhile.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches
        self.spent: dict[str, float] = defaultdict(float)
        self.steps: list[dict[str, float]] = []
        self.disturbed: list[bool] = []
        self._asked = self._foreign = None

    def __iter__(self) -> "TimedIterator":
        return self

    def __next__(self) -> Batch:
        now, foreign = time.perf_counter(), seconds_of_other_processes() or 0.0
        if self._asked is not None:
            step = now - self._asked
            self.steps.append({"step": step, **self.spent, REST: step - sum(self.spent.values())})
            self.disturbed.append(is_disturbed(foreign - self._foreign, step))
            self.spent.clear()
        self._asked, self._foreign = time.perf_counter(), foreign
        batch = next(self.batches)
        self.spent[WAIT] = time.perf_counter() - self._asked
        return batch
