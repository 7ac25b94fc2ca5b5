"""A training step of RT-DETR R18: forward, loss with Hungarian matching, backward, clipping, AdamW.

Ours runs through the training loop itself, beside ``transformers``' model of the same configuration, in processes of its
own: what ours does to the memory of a process would help it there.
"""

import argparse
from contextlib import ExitStack
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from neo_model.benchmark.apart import apart
from neo_model.benchmark.ceiling import matrix_product
from neo_model.benchmark.measure import interleaved
from neo_model.benchmark.step_parts import step_parts
from neo_model.benchmark.subjects import Batch, random_batch, size_argument
from neo_model.benchmark.table import Report, Row, Table
from neo_model.benchmark.training import our_learner, our_step, peer_step
from neo_model.engine.hardware import PRECISIONS, Hardware
from neo_model.engine.training_loop import Learner

FLOOR = "arithmetic floor"  # the step's multiplications alone at the rate of one large matrix product


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--size", type=size_argument, default=(640, 640), help="WIDTHxHEIGHT (640x640)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    parser.add_argument("--boxes", type=int, default=10, help="boxes an image (10)")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16"])
    parser.add_argument("--depth", type=int, choices=(18, 50), default=18, help="of the backbone (18)")
    parser.set_defaults(warmup=3)  # the first steps, of the peer above all, wait for memory's pages


def run(arguments: argparse.Namespace) -> Report:
    """Measure every precision asked for."""
    import transformers  # noqa: F401  that it is there, and its version, are to be known here, too

    height, width = arguments.size
    batch = random_batch(
        height, width, num_images=arguments.batch, num_boxes=arguments.boxes, device=arguments.device
    )
    what = f"R{arguments.depth} {width}x{height}, batch {arguments.batch}, {arguments.boxes} boxes"
    tables = []
    for precision in arguments.precisions:
        hardware = Hardware(
            device=arguments.device, precision=precision, tf32=arguments.device == "cuda", cudnn_benchmark=True
        )
        hardware.set_backends()
        learner = our_learner(arguments.depth, hardware)
        tables.append(_compared(f"{what}, {precision}", learner, batch, hardware, arguments))
        parts = step_parts(
            lambda: our_step(learner, batch, hardware), learner, hardware.device, rounds=arguments.rounds
        )
        tables.append(Table(f"parts of our step, {precision}", parts, "step"))
    return Report("step", tables)


def _compared(
    title: str, learner: Learner, batch: Batch, hardware: Hardware, arguments: argparse.Namespace
) -> Table:
    """Ours, the peer's settings and the floor at one precision."""
    settings = {
        "transformers": {"channels_last": False, "fused": False},
        "transformers, channels-last": {"channels_last": True, "fused": False},
        "transformers, channels-last, fused": {"channels_last": True, "fused": True},
    }
    if hardware.precision == "fp32":  # where a step takes seconds; fused AdamW only adds to what channels-last brings
        del settings["transformers, channels-last"]
    ceiling = matrix_product(PRECISIONS[hardware.precision] or torch.float32, hardware.device)

    def ours() -> None:
        our_step(learner, batch, hardware)

    with ExitStack() as processes:
        candidates = {"ours": ours, FLOOR: ceiling.call}
        for name, options in settings.items():
            make = partial(peer_step, arguments.depth, batch, hardware.device, precision=hardware.precision, **options)
            candidates[name] = processes.enter_context(apart(make, hardware))
        turns = {"rounds": arguments.rounds, "warmup": arguments.warmup, "device": hardware.device.type}
        timings = interleaved(candidates, **turns)
    with FlopCounterMode(display=False) as counter:
        ours()
    operations = counter.get_total_flops()
    floor = ceiling.time_of(operations, timings.pop(FLOOR))
    rows = [Row(name, timing) for name, timing in timings.items()]
    rows.append(Row(FLOOR, floor, note=f"{operations / 1e12:.2f} TFLOP at a large matrix product's rate"))
    return Table(title, rows, list(settings))
