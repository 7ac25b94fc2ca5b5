"""Inference of RT-DETR R18, one image at a time, beside ``transformers``' model of the same configuration.

Ours is the form that evaluation and prediction use: norms folded into convolutions, weights in the precision of
autocast. The peer has its weights in float32, as it comes, and in the precision of autocast. All are channels-last.
--compile adds ours and the peer through torch.compile with constant weights. Ratios are to the peer's fastest form.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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
    hardware = Hardware(device=arguments.device, precision=arguments.precision, tf32=arguments.device == "cuda")
    hardware.set_backends()
    models = {
        "ours": inference_form(our_model(arguments.depth), hardware),
        PEER: hardware.place_model(peer_model(arguments.depth)).eval(),
    }
    dtype = PRECISIONS[arguments.precision]
    if dtype is not None:
        in_half = hardware.place_model(peer_model(arguments.depth)).to(dtype).eval()
        models[f"{PEER}, weights in {arguments.precision}"] = in_half
    tables = [_table(models, size, hardware, arguments) for size in arguments.size]
    return Report("forward", tables, ["Weights are random: the same work, no detections."])


def _table(
    models: dict[str, nn.Module], size: tuple[int, int], hardware: Hardware, arguments: argparse.Namespace
) -> Table:
    """All forms and the floor at one size."""
    height, width = size
    images = hardware.place(random_batch(height, width, num_images=arguments.batch, num_boxes=0).images)
    candidates = {name: _inferring(model, images, hardware) for name, model in models.items()}
    if arguments.compile:
        for name in ("ours", PEER):
            # Freezing lets the compiler cast and lay out the weights once, as an inference engine does.
            compiled = torch.compile(models[name], dynamic=False, options={"freezing": True})
            candidates[f"{name}, compiled"] = _inferring(compiled, images, hardware)
    ceiling = matrix_product(PRECISIONS[arguments.precision] or torch.float32, hardware.device)
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
    peers = [name for name in candidates if name.startswith(PEER)]
    rows = [Row(name, timing, "ms") for name, timing in timings.items()]
    rows.append(Row(FLOOR, floor, "ms", note=f"{operations / 1e9:.0f} GFLOP at a matrix product's rate"))
    return Table(f"R{arguments.depth} {width}x{height}, batch {arguments.batch}, {arguments.precision}", rows, peers)


def _inferring(model: Callable[[Tensor], object], images: Tensor, hardware: Hardware) -> Callable[[], object]:
    def infer() -> object:
        with torch.inference_mode(), hardware.autocast():
            return model(images)

    return infer
