"""What it costs a training step that no work is lost: the same R18 step with and without, and each part by itself.

With: through the run's own loop, which looks for signals and due checkpoints, keeps batch norm's statistics in case the
step is not finite, has the optimizer skip such a step, counts batches, and writes figures. Without: the bare equations
of a step. The parts are timed by themselves, as they are far smaller than what two steps differ by.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from neo_model.benchmark.loop import make_runner
from neo_model.benchmark.measure import interleaved
from neo_model.benchmark.subjects import Batch, random_batch, size_argument
from neo_model.benchmark.table import Report, Row, Table
from neo_model.engine import Runner
from neo_model.engine.batch_norm import BatchNormStatistics
from neo_model.engine.progress import StopRequest
from neo_model.engine.training_loop import Learner, clipping_divisor, train_one_epoch

SAFE, BARE = "with", "without"
MINUTES, STEPS_A_RECORD = 10, 10  # save_minutes and log_every of conf/train.yaml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--size", type=size_argument, default=(640, 640), help="WIDTHxHEIGHT (640x640)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    parser.add_argument("--boxes", type=int, default=10, help="in each image (10)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="(auto)")
    parser.set_defaults(workers=0)  # the batch is there already


def run(arguments: argparse.Namespace) -> Report:
    """Both steps in turns, then the parts."""
    height, width = arguments.size
    batch = random_batch(
        height, width, num_images=arguments.batch, num_boxes=arguments.boxes, device=arguments.device
    )
    stop = StopRequest()  # nobody is asked to stop, and Ctrl-C ends the benchmark
    with tempfile.TemporaryDirectory() as folder:
        runner = make_runner(Path(folder), arguments, steps=arguments.warmup + arguments.rounds)
        steps = {SAFE: lambda: safe_step(runner, batch, stop), BARE: lambda: bare_step(runner, batch)}
        options = {"rounds": arguments.rounds, "warmup": arguments.warmup, "device": runner.hardware.device.type}
        timings = interleaved(steps, **options)
        costs = _costs(runner, batch, stop, timings[SAFE].median, options)
    title = f"R18 {width}x{height}, batch {arguments.batch}"
    rows = [Row(name, timing, "ms") for name, timing in timings.items()]
    step = Row(f"step, {BARE}", timings[BARE], "ms")
    whole = sum(cost.figures[0] for cost in costs)
    notes = [f"All parts together: {whole:.2f} ms, {whole / step.figures[0]:.2%} of a step."]
    return Report("safety", [Table(title, rows, BARE), Table("a step's share of", [step, *costs], step.name)], notes)


def safe_step(runner: Runner, batch: Batch, stop: StopRequest) -> None:
    """An epoch of one batch as a run has it."""
    batches = runner.until_due(iter([(batch.images, batch.targets)]), stop)
    train_one_epoch(runner.learner, batches, runner.progress, runner.hardware, after_step=lambda report: None)


def bare_step(runner: Runner, batch: Batch) -> None:
    """The same equations, and nothing for what may go wrong."""
    learner: Learner = runner.learner
    learner.optimizer.zero_grad(set_to_none=True)
    learner.optimizer.found_inf = None
    with runner.hardware.autocast():
        outputs = learner.model(runner.hardware.place(batch.images), batch.targets)
    losses = learner.criterion(outputs, batch.targets)
    learner.scaler.scale(sum(losses.values())).backward()
    parameters = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    learner.optimizer.grad_scale = clipping_divisor(norm, learner.clip_norm)
    learner.optimizer.step()
    learner.scheduler.step()
    learner.ema.update_parameters(learner.model)


def _costs(runner: Runner, batch: Batch, stop: StopRequest, step_seconds: float, options: dict) -> list[Row]:
    """Rows of what each part costs a step, on average."""
    learner = runner.learner
    with torch.no_grad(), runner.hardware.autocast():
        outputs = learner.model(runner.hardware.place(batch.images), batch.targets)
    layers = [outputs, *outputs["aux_outputs"]]
    predictions = [torch.cat([layer[name] for layer in layers]).float() for name in ("pred_logits", "pred_boxes")]
    statistics = BatchNormStatistics(learner.model)
    norm = torch.zeros((), device=runner.hardware.device)
    record = {f"train/figure_{number}": 0.1 for number in range(30)}

    def keep_and_put_back() -> None:
        before = statistics.copy()
        not_finite = norm.isfinite().logical_not()
        not_finite.float()
        statistics.put_back(before, where=not_finite)

    parts: dict[str, tuple[Callable[[], object], float, str]] = {
        "finite loss and gradient, batch norm kept": (keep_and_put_back, 1.0, ""),
        "finite predictions": (lambda: [torch.aminmax(tensor) for tensor in predictions], 1.0, ""),
        "signals, due checkpoints": (lambda: list(runner.until_due(iter([batch]), stop)), 1.0, ""),
        "metrics.jsonl": (lambda: runner.metrics_file.scalars(1, 0.0, record), 1 / STEPS_A_RECORD, "one step in ten"),
        "checkpoint, figures on the disk": (runner.save, step_seconds / (60 * MINUTES), f"one in {MINUTES} minutes"),
    }
    timings = interleaved({name: call for name, (call, *_) in parts.items()}, **options)
    return [
        Row(name, replace(timings[name], samples=tuple(s * share for s in timings[name].samples)), "ms", note=note)
        for name, (_, share, note) in parts.items()
    ]

