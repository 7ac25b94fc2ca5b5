"""Inference of RT-DETR R18, one image at a time, beside ``transformers``' model of the same configuration.

Ours is the form that evaluation and prediction use: norms folded into convolutions, weights in the precision of
autocast. The peer has its weights in float32, as it comes, and in the precision of autocast, each in a process of its
own: what ours does to the memory of a process would help it there. All are channels-last.
--compile adds ours and the peer through torch.compile with constant weights. Ratios are to the peer's fastest form.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from neo_model.benchmark.apart import apart
from neo_model.benchmark.ceiling import matrix_product
from neo_model.benchmark.measure import interleaved
from neo_model.benchmark.subjects import our_model, peer_model, random_batch, size_argument
from neo_model.benchmark.table import Report, Row, Table
from neo_model.engine.evaluation_loop import inference_form
from neo_model.engine.hardware import PRECISIONS, Hardware

PEER, FLOOR = "transformers", "arithmetic floor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument(
        "--size",
        type=size_argument,
        nargs="+",
        default=[(640, 640), (1088, 1920)],
        help="one or more WIDTHxHEIGHT (640x640 1920x1088)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images (1)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16", help="of autocast (bf16)")
    parser.add_argument("--depth", type=int, choices=(18, 50), default=18, help="of the backbone (18)")
    parser.add_argument("--compile", action="store_true", help="both models compiled as well; takes minutes a size")


def run(arguments: argparse.Namespace) -> Report:
    """Measure every size."""
    import transformers  # noqa: F401  that it is there, and its version, are to be known here, too

    hardware = Hardware(device=arguments.device, precision=arguments.precision, tf32=arguments.device == "cuda")
    hardware.set_backends()
    model = inference_form(our_model(arguments.depth), hardware)
    tables = [_table(model, size, hardware, arguments) for size in arguments.size]
    return Report("forward", tables, ["Weights are random: the same work, no detections."])


def _table(model: nn.Module, size: tuple[int, int], hardware: Hardware, arguments: argparse.Namespace) -> Table:
    """All forms and the floor at one size."""
    height, width = size
    images = hardware.place(random_batch(height, width, num_images=arguments.batch, num_boxes=0).images)
    candidates = {"ours": _inferring(model, images, hardware)}
    peers = {PEER: {}}
    if PRECISIONS[arguments.precision] is not None:
        peers[f"{PEER}, weights in {arguments.precision}"] = {"in_half": True}
    if arguments.compile:
        candidates["ours, compiled"] = _inferring(_compiled(model), images, hardware)
        peers[f"{PEER}, compiled"] = {"compiled": True}
    ceiling = matrix_product(PRECISIONS[arguments.precision] or torch.float32, hardware.device)
    with ExitStack() as processes:
        for name, form in peers.items():
            make = partial(_peer, arguments.depth, images, hardware, **form)
            candidates[name] = processes.enter_context(apart(make, hardware))
        timings = interleaved(
            {**candidates, FLOOR: ceiling.call},
            rounds=arguments.rounds,
            warmup=arguments.warmup,
            device=hardware.device.type,
        )
    with FlopCounterMode(display=False) as counter:
        candidates["ours"]()
    operations = counter.get_total_flops()
    floor = ceiling.time_of(operations, timings.pop(FLOOR))
    rows = [Row(name, timing, "ms") for name, timing in timings.items()]
    rows.append(Row(FLOOR, floor, "ms", note=f"{operations / 1e9:.0f} GFLOP at a matrix product's rate"))
    title = f"R{arguments.depth} {width}x{height}, batch {arguments.batch}, {arguments.precision}"
    return Table(title, rows, list(peers))


def _peer(
    depth: int, images: Tensor, hardware: Hardware, *, in_half: bool = False, compiled: bool = False
) -> Callable[[], object]:
    """A form of the peer."""
    model = hardware.place_model(peer_model(depth)).eval()
    if in_half:
        model = model.to(PRECISIONS[hardware.precision])
    return _inferring(_compiled(model) if compiled else model, images, hardware)


def _compiled(model: nn.Module) -> Callable[[Tensor], object]:
    """Freezing lets the compiler cast and lay out the weights once, as an inference engine does."""
    return torch.compile(model, dynamic=False, options={"freezing": True})


def _inferring(model: Callable[[Tensor], object], images: Tensor, hardware: Hardware) -> Callable[[], object]:
    def infer() -> object:
        with torch.inference_mode(), hardware.autocast():
            return model(images)

    return infer
