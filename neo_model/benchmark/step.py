"""A training step of RT-DETR R18: forward, loss with Hungarian matching, backward, clipping, AdamW.

Ours runs through the training loop itself, beside ``transformers``' model of the same configuration.
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from neo_model.benchmark.ceiling import matmul_rate
from neo_model.benchmark.measure import Timing, interleaved
from neo_model.benchmark.step_parts import step_parts
from neo_model.benchmark.subjects import Batch, our_criterion, our_model, peer_model, random_batch, size_argument
from neo_model.benchmark.table import Report, Row, Table
from neo_model.engine.hardware import PRECISIONS, Hardware
from neo_model.engine.progress import Progress
from neo_model.engine.training_loop import Learner, train_one_epoch
from neo_model.optim import AdamW, Constant

LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-4, 1e-4, 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--size", type=size_argument, default=(640, 640), help="WIDTHxHEIGHT (640x640)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    parser.add_argument("--boxes", type=int, default=10, help="boxes an image (10)")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16"])
    parser.add_argument("--depth", type=int, choices=(18, 50), default=18, help="of the backbone (18)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure every precision asked for."""
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
        parts = step_parts(lambda: our_step(learner, batch, hardware), learner, hardware.device)
        tables.append(Table(f"parts of our step, {precision}", parts, "step"))
    return Report("step", tables)


def our_learner(depth: int, hardware: Hardware) -> Learner:
    """Our model with what trains it; without the weight average, which the peer lacks as well."""
    model = hardware.place_model(our_model(depth))
    optimizer = AdamW(lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY).build(model)
    scheduler = Constant().build(optimizer, steps_per_epoch=1, total_steps=1)
    return Learner(model, our_criterion(), optimizer, scheduler, hardware.grad_scaler(), None, CLIP_NORM)


def our_step(learner: Learner, batch: Batch, hardware: Hardware) -> None:
    """An epoch of one batch."""
    train_one_epoch(learner, [(batch.images, batch.targets)], Progress(), hardware, after_step=lambda report: None)


def peer_step(
    depth: int, batch: Batch, device: torch.device, *, precision: str, channels_last: bool, fused: bool
) -> Callable[[], None]:
    """A step of ``transformers``' model in the form that its documentation gives: the loss inside autocast."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = peer_model(depth).to(device, memory_format=layout).train()
    images, labels = batch.images.to(memory_format=layout), batch.peer_targets
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused or None)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    dtype = PRECISIONS[precision]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model(pixel_values=images, labels=labels).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        scaler.step(optimizer)
        scaler.update()

    return step


def _compared(
    title: str, learner: Learner, batch: Batch, hardware: Hardware, arguments: argparse.Namespace
) -> Table:
    """Ours, the peer's settings and the floor at one precision."""
    settings = {"transformers": {"channels_last": False, "fused": False}}
    settings["transformers, channels-last"] = {"channels_last": True, "fused": False}
    if hardware.precision != "fp32":
        settings["transformers, channels-last, fused"] = {"channels_last": True, "fused": True}
    candidates: dict[str, Callable[[], object]] = {"ours": lambda: our_step(learner, batch, hardware)}
    for name, options in settings.items():
        candidates[name] = peer_step(
            arguments.depth, batch, hardware.device, precision=hardware.precision, **options
        )
    timings = interleaved(
        candidates, rounds=arguments.rounds, warmup=arguments.warmup, device=hardware.device.type
    )
    peers = {name: timing for name, timing in timings.items() if name != "ours"}
    best = min(peers, key=lambda name: peers[name].median)
    ratio_to = "transformers" if hardware.precision == "fp32" else best
    rows = [Row(name, timing) for name, timing in timings.items()]
    return Table(title, [*rows, _floor(learner, batch, hardware)], ratio_to)


def _floor(learner: Learner, batch: Batch, hardware: Hardware) -> Row:
    """What the step's multiplications alone would take at the rate of one large matrix product."""
    with FlopCounterMode(display=False) as counter:
        our_step(learner, batch, hardware)
    operations = counter.get_total_flops()
    rate = matmul_rate(PRECISIONS[hardware.precision] or torch.float32, hardware.device)
    seconds = Timing(tuple(operations / sample for sample in rate))
    return Row("arithmetic floor", seconds, note=f"{operations / 1e12:.2f} TFLOP at a large matrix product's rate")
