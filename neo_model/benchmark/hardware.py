"""What each choice of `hardware` brings on this machine: a training step with it and without, and AdamW's two forms."""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch

from neo_model.benchmark.apart import apart
from neo_model.benchmark.measure import interleaved
from neo_model.benchmark.subjects import Batch, random_batch, size_argument
from neo_model.benchmark.table import Report, Row, Table
from neo_model.benchmark.training import our_learner, our_step
from neo_model.engine.hardware import Hardware, best_precision

CHOSEN, MEMORY_AS_IT_COMES = "as chosen", "freed memory given back, small pages"
FUSED, NOT_FUSED = "fused, as chosen", "fused=False"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--size", type=size_argument, default=(640, 640), help="WIDTHxHEIGHT (640x640)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    parser.add_argument("--boxes", type=int, default=10, help="boxes an image (10)")
    parser.add_argument("--depth", type=int, choices=(18, 50), default=18, help="of the backbone (18)")
    parser.set_defaults(warmup=2)


def run(arguments: argparse.Namespace) -> Report:
    """Measure each choice that means something on the device."""
    (height, width), device = arguments.size, torch.device(arguments.device)
    batch = random_batch(height, width, num_images=arguments.batch, num_boxes=arguments.boxes, device=arguments.device)
    is_gpu = device.type == "cuda"
    chosen = {"device": device.type, "precision": best_precision(device)}
    chosen |= {"channels_last": True, "cudnn_benchmark": is_gpu, "tf32": is_gpu}
    other_precision = "bf16" if chosen["precision"] == "fp32" else "fp32"
    others = {f"precision={other_precision}": {"precision": other_precision}}
    others |= {"channels_last=false": {"channels_last": False}}
    if is_gpu:
        others |= {"cudnn_benchmark=false": {"cudnn_benchmark": False}, "compile=true": {"compile": True}}
        others |= {"precision=fp32 tf32=false": {"precision": "fp32", "tf32": False}}
    steps = {name: _step(arguments.depth, batch, Hardware(**chosen | other)) for name, other in others.items()}
    options = {"rounds": arguments.rounds, "warmup": arguments.warmup, "device": device.type}
    title = f"step of R{arguments.depth} {width}x{height}, batch {arguments.batch}, {chosen['precision']}"
    steps = {CHOSEN: _step(arguments.depth, batch, Hardware(**chosen)), **steps}
    with ExitStack() as processes:
        if not is_gpu:
            make = partial(_step_in_memory_as_it_comes, arguments.depth, batch, Hardware(**chosen))
            steps[MEMORY_AS_IT_COMES] = processes.enter_context(apart(make, Hardware(**chosen)))
        timings = interleaved(steps, **options)
    tables = [Table(title, [Row(name, timing) for name, timing in timings.items()], CHOSEN)]
    timings = interleaved(_optimizer_steps(arguments.depth, Hardware(**chosen), batch), **options)
    rows = [Row(name, timing, "ms") for name, timing in timings.items()]
    return Report("hardware", [*tables, Table("AdamW alone", rows, FUSED)])


def _step(depth: int, batch: Batch, hardware: Hardware) -> Callable[[], None]:
    learner = our_learner(depth, hardware)

    def step() -> None:
        hardware.set_backends()  # the process's, and so the previous candidate's until now
        our_step(learner, batch, hardware)

    return step


def _step_in_memory_as_it_comes(depth: int, batch: Batch, hardware: Hardware) -> Callable[[], None]:
    """In a process of its own; on a CPU `Hardware.set_backends` would change nothing else."""
    learner = our_learner(depth, hardware)
    return lambda: our_step(learner, batch, hardware)


def _optimizer_steps(depth: int, hardware: Hardware, batch: Batch) -> dict[str, Callable[[], None]]:
    """A step with the same gradients, in one kernel for all weights of a group and in PyTorch's other form."""
    learner = our_learner(depth, hardware)
    our_step(learner, batch, hardware)
    groups = learner.optimizer.param_groups
    other = torch.optim.AdamW([{**group, "fused": False, "foreach": None} for group in groups])
    return {FUSED: lambda: learner.optimizer.step(), NOT_FUSED: lambda: other.step()}
