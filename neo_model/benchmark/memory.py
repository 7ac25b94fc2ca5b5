"""What an R50 training step at 1920x1080 asks of a GPU: peak memory, bytes moved, operations, arithmetic.

Counted on shapes alone by `FakeTensorMode`, with half-precision autocast, the weight average and fused AdamW, beside
``transformers``' model with the same settings. With ``--device cuda`` both also run for real.
"""

import argparse
from collections.abc import Callable, Collection
from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor, nn

from neo_model.benchmark.fake_gpu import fake_gpu, walk_backward
from neo_model.benchmark.measure import interleaved
from neo_model.benchmark.operation_counter import OperationCounter
from neo_model.benchmark.subjects import (
    NUM_CLASSES,
    Batch,
    our_criterion,
    our_model,
    peer_model,
    random_batch,
    size_argument,
)
from neo_model.benchmark.table import Report, Row, Table
from neo_model.benchmark.training import our_learner, our_step, peer_step
from neo_model.engine.hardware import PRECISIONS, Hardware
from neo_model.optim import Ema
from neo_model.optim.ema import WeightAverage

CLIP_NORM, LOSS_SCALE = 0.1, 2.0**16
RTX3090_FLOPS, RTX3090_BYTES = 71e12, 936e9  # fp16 with fp32 accumulation, and memory traffic, a second
COCO_IMAGES = 118_287
FIRST_STEPS = 3  # until the allocator has met its peak
RECOMPUTED = (["backbone"], ["encoder"], ["encoder", "backbone"])  # hardware.recompute
PEER = "transformers"
NOTES = [
    "Counted: each operation's tensor arguments and results once; of deformable attention's samples, in both, every "
    "token that is read or added to, as if no cache held it; views and allocations are free. Matching reads zeros on "
    "the host, so that its pairs are fixed; checks of values on the host are taken as passed.",
    "transformers takes sides in multiples of 32 only and float32 images, ours any sides and uint8 images; the stem "
    "is frozen in both, and both are channels-last.",
    "The RTX 3090's figures are an estimate: of each operation the longer of arithmetic at 71 TFLOP/s and traffic at "
    "936 GB/s, added up, with nothing for launches and the host. They are the ceiling here: one after the other, and "
    "with no help from a cache, the counted operations cannot be done in less.",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cuda runs the steps for real as well (cpu)")
    parser.add_argument("--size", type=size_argument, default=(1080, 1920), help="WIDTHxHEIGHT (1920x1080)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    parser.add_argument("--boxes", type=int, default=10, help="boxes an image (10)")
    parser.add_argument("--depth", type=int, choices=(18, 50), default=50, help="of the backbone (50)")
    parser.add_argument("--precision", choices=("fp16", "bf16"), default="fp16", help="of autocast (fp16)")
    parser.add_argument("--model", metavar="NAME", help="a model of conf/model instead, without the peer")


def run(arguments: argparse.Namespace) -> Report:
    """Count ours and the peer."""
    depth, (height, width) = arguments.depth, arguments.size
    shape, dtype = (arguments.batch, arguments.boxes), PRECISIONS[arguments.precision]
    padded = (-(-height // 32) * 32, -(-width // 32) * 32)
    model = arguments.model or depth
    counts = {}
    for parts in ([], *RECOMPUTED):
        name = f"ours, recompute [{', '.join(parts)}]" if parts else "ours"
        counts[name] = count_ours(model, height, width, *shape, recompute=parts, dtype=dtype)
    size = f"{width}x{height}, batch {arguments.batch}, {arguments.precision} autocast"
    if arguments.model:
        return Report("memory", counted_tables(f"{model} {size}", counts, arguments.batch), NOTES)
    counts[PEER] = count_peer(depth, *padded, *shape, dtype=dtype)
    title = f"R{depth} {size}"
    tables = counted_tables(title, counts, arguments.batch)
    if arguments.device == "cuda":
        tables += _real_tables(title, padded, arguments)
    return Report("memory", tables, NOTES)


def count_ours(
    model: int | str,
    height: int,
    width: int,
    num_images: int,
    num_boxes: int,
    *,
    recompute: Collection[str] = (),
    dtype: torch.dtype = torch.float16,
) -> OperationCounter:
    """Our training step of a depth or of a model of conf/model; images as our loader hands them over, channels-last."""
    with fake_gpu():
        model, criterion = _on_gpu(_named if isinstance(model, str) else our_model, model), our_criterion()
        model.recompute(recompute)
        batch = random_batch(height, width, num_images=num_images, num_boxes=num_boxes, device="cuda")
        images = _as_loaded(batch).images

        def loss() -> Tensor:
            with torch.autocast("cuda", dtype=dtype):
                outputs = model(images, batch.targets)
            return sum(criterion(outputs, batch.targets).values())

        return count_step(model, loss, [images])


def count_peer(
    depth: int, height: int, width: int, num_images: int, num_boxes: int, *, dtype: torch.dtype
) -> OperationCounter:
    """The step of ``transformers``' model, with its float images, channels-last as well."""
    with fake_gpu():
        model = _on_gpu(peer_model, depth)
        batch = random_batch(height, width, num_images=num_images, num_boxes=num_boxes, device="cuda")
        images = batch.images.to(memory_format=torch.channels_last)

        def loss() -> Tensor:
            with torch.autocast("cuda", dtype=dtype):
                return model(pixel_values=images, labels=batch.peer_targets).loss

        # It asks the device how many denoising queries shall find a target: each box once in every group.
        positives = num_images * num_boxes * max(1, model.config.num_denoising // num_boxes)
        with mock.patch.object(torch, "nonzero", lambda mask: mask.new_zeros(positives, mask.dim(), dtype=torch.int64)):
            return count_step(model, loss, [images])


def count_step(model: nn.Module, loss: Callable[[], Tensor], inputs: list[Tensor]) -> OperationCounter:
    """One step of training, not the first, within `fake_gpu`."""
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, average = torch.optim.AdamW(parameters, lr=1e-4, fused=True), Ema().build(model)
    for parameter in parameters:  # a first step makes the optimizer's state
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()

    with OperationCounter("cuda") as counter:
        counter.watch(*inputs, *_tensors_of(model), *_tensors_of(average))
        counter.watch(*(tensor for state in optimizer.state.values() for tensor in state.values()))
        counter.start()
        walk_backward(lambda: loss() * LOSS_SCALE)
        _update(parameters, optimizer, model, average)
    return counter


def _named(name: str) -> nn.Module:
    from neo_model.config.build import build_model  # with Hydra, which the other candidates do without

    return build_model(name, num_classes=NUM_CLASSES)


def _on_gpu(build: Callable[[int | str], nn.Module], which: int | str) -> nn.Module:
    """A model made on the device, where fake parameters cannot move, and channels-last."""
    with torch.device("cuda"):
        model = build(which)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return model


def _as_loaded(batch: Batch) -> Batch:
    """The batch with its images as our loader hands them over: uint8, channels-last."""
    images = batch.images.mul(255).to(torch.uint8, memory_format=torch.channels_last)
    return replace(batch, images=images)


def _tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _update(
    parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, model: nn.Module, average: WeightAverage
) -> None:
    """What loss scaling, clipping, AdamW and the average do, without their waits for the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    found, scale = (torch.zeros((), device="cuda") for _ in range(2))
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, scale)
    nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    optimizer.step()
    average.update_parameters(model)
    optimizer.zero_grad()


def counted_tables(title: str, counts: dict[str, OperationCounter], num_images: int) -> list[Table]:
    """One table for each quantity."""

    def table(what: str, unit: str, value: Callable[[OperationCounter], float], note=lambda count: "") -> Table:
        rows = [Row(name, value(count), unit, note=note(count)) for name, count in counts.items()]
        return Table(f"{what}, {title}", rows, PEER if PEER in counts else None)

    def seconds(count: OperationCounter) -> float:
        return count.seconds(flop_rate=RTX3090_FLOPS, byte_rate=RTX3090_BYTES)

    def durations(count: OperationCounter) -> str:
        hours = COCO_IMAGES / num_images * seconds(count) / 3600
        return f"{seconds(count) * 1e3:.0f} ms a step, {hours:.2f} h for COCO's 118 k images"

    return [
        table(
            "peak memory",
            "GiB",
            lambda count: count.peak_bytes / 2**30,
            lambda count: f"{count.bytes_at_start / 2**30:.2f} GiB of it weights, average, AdamW, images",
        ),
        table("bytes moved", "GB", lambda count: count.bytes_moved / 1e9),
        table("operations", "", lambda count: count.operations),
        table("arithmetic", "TFLOP", lambda count: count.flops / 1e12),
        table("RTX 3090 estimate", "images/s", lambda count: num_images / seconds(count), durations),
    ]


def _real_tables(title: str, padded: tuple[int, int], arguments: argparse.Namespace) -> list[Table]:
    """Peak of the allocator, one after the other, and then time of real steps, in turns."""
    hardware = Hardware(device=arguments.device, precision=arguments.precision)
    hardware.set_backends()
    shape = {"num_images": arguments.batch, "num_boxes": arguments.boxes, "device": arguments.device}
    ours, peer = _as_loaded(random_batch(*arguments.size, **shape)), random_batch(*padded, **shape)
    options = {"precision": arguments.precision, "channels_last": True, "fused": True, "average": True}

    def our_candidate() -> Callable[[], object]:
        learner = our_learner(arguments.depth, hardware, average=True)
        return lambda: our_step(learner, ours, hardware)

    builders = {"ours": our_candidate, PEER: lambda: peer_step(arguments.depth, peer, hardware.device, **options)}
    steps, peaks = {}, []
    for name, build in builders.items():  # what the one before keeps between its steps is not counted
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        steps[name] = build()
        for _ in range(FIRST_STEPS):
            steps[name]()
        peaks.append(Row(name, (torch.cuda.max_memory_allocated() - before) / 2**30, "GiB"))
    timings = interleaved(steps, rounds=arguments.rounds, warmup=arguments.warmup, device=arguments.device)
    times = [Row(name, timing, "ms") for name, timing in timings.items()]
    return [Table(f"allocator's peak, {title}", peaks, PEER), Table(f"time of a step, {title}", times, PEER)]
