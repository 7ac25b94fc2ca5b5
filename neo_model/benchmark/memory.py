"""What an R50 training step at 1920x1080 asks of a GPU: peak memory, bytes moved, operations, arithmetic.

Counted on shapes alone by `FakeTensorMode`, with fp16 autocast, the weight average and fused AdamW, beside
``transformers``' model with the same settings. With ``--device cuda`` the step also runs for real.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor, nn

from neo_model.benchmark.fake_gpu import fake_gpu, walk_backward
from neo_model.benchmark.operation_counter import OperationCounter
from neo_model.benchmark.subjects import our_criterion, our_model, peer_model, random_batch, size_argument
from neo_model.benchmark.table import Report, Row, Table
from neo_model.optim import Ema

CLIP_NORM, LOSS_SCALE = 0.1, 2.0**16
RTX3090_FLOPS, RTX3090_BYTES = 71e12, 936e9  # fp16 with fp32 accumulation, and memory traffic, a second
NOTES = [
    "Counted: every operation's tensor arguments and results once; views and allocations are free; the host's "
    "matching runs on zeros, so that the pairs are fixed; checks of values on the host are taken as passed.",
    "transformers' model takes sides in multiples of 32 only; its frozen stem is frozen as ours.",
    "The RTX 3090's figures are an estimate: the longer of arithmetic at 71 TFLOP/s and traffic at 936 GB/s.",
]


@dataclass(frozen=True)
class Count:
    """One training step.

    Attributes:
        peak_bytes: weights, average, optimizer, gradients, activations at the highest point.
        resting_bytes: what is there between two steps.
        moved_bytes: in and out of all operations.
        operations: how many; views not counted.
        flops: multiplications and additions of convolutions and matrix products.
    """

    peak_bytes: int
    resting_bytes: int
    moved_bytes: int
    operations: int
    flops: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--size", type=size_argument, default=(1080, 1920), help="WIDTHxHEIGHT (1920x1080)")
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    parser.add_argument("--boxes", type=int, default=10, help="boxes an image (10)")
    parser.add_argument("--depth", type=int, choices=(18, 50), default=50, help="of the backbone (50)")


def run(arguments: argparse.Namespace) -> Report:
    """Count ours and the peer."""
    height, width = arguments.size
    counts = {"ours": count_ours(arguments.depth, height, width, arguments.batch, arguments.boxes)}
    padded = (-(-height // 32) * 32, -(-width // 32) * 32)
    counts["transformers"] = count_peer(arguments.depth, *padded, arguments.batch, arguments.boxes)
    title = f"R{arguments.depth} {width}x{height}, batch {arguments.batch}, fp16 autocast"
    return Report("memory", _tables(title, counts, arguments.batch), NOTES)


def count_ours(depth: int, height: int, width: int, num_images: int, num_boxes: int) -> Count:
    """Our training step, with the images as our loader hands them over, as uint8."""
    with fake_gpu():
        model, criterion = _on_gpu(our_model, depth), our_criterion()
        batch = random_batch(height, width, num_images=num_images, num_boxes=num_boxes, device="cuda")
        images = batch.images.to(torch.uint8)

        def loss() -> Tensor:
            with torch.autocast("cuda", dtype=torch.float16):
                outputs = model(images, batch.targets)
            return sum(criterion(outputs, batch.targets).values())

        return _count(model, loss, images)


def count_peer(depth: int, height: int, width: int, num_images: int, num_boxes: int) -> Count:
    """The step of ``transformers``' model, with its float images."""
    with fake_gpu():
        model = _on_gpu(peer_model, depth)
        batch = random_batch(height, width, num_images=num_images, num_boxes=num_boxes, device="cuda")

        def loss() -> Tensor:
            with torch.autocast("cuda", dtype=torch.float16):
                return model(pixel_values=batch.images, labels=batch.peer_targets).loss

        # It asks the device how many denoising queries there are: two for each box of every group.
        positives = num_images * num_boxes * max(1, model.config.num_denoising // num_boxes)
        with mock.patch.object(torch, "nonzero", lambda mask: mask.new_zeros(positives, mask.dim(), dtype=torch.int64)):
            return _count(model, loss, batch.images)


def _on_gpu(build: Callable[[int], nn.Module], depth: int) -> nn.Module:
    """A model made on the device; fake parameters cannot move there."""
    with torch.device("cuda"):
        return build(depth)


def _count(model: nn.Module, loss: Callable[[], Tensor], images: Tensor) -> Count:
    """One step of training, within `fake_gpu`."""
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    ema = Ema().build(model)
    for parameter in parameters:  # a first step makes the optimizer's state
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()

    with OperationCounter("cuda") as counter:
        counter.watch(images, *tensors_of(model, ema), *(t for state in optimizer.state.values() for t in state.values()))
        counter.reset()
        resting = counter.alive_bytes
        walk_backward(lambda: loss() * LOSS_SCALE)
        _update(parameters, optimizer, model, ema)
    return Count(counter.peak_bytes, resting, counter.bytes_moved, counter.operations, counter.flops)


def _update(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, model: nn.Module, ema: nn.Module) -> None:
    """What the scaler, clipping, AdamW and the average do, without their waits for the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    found, scale = (torch.zeros((), device="cuda") for _ in range(2))
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, scale)
    nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad()
    ema.update_parameters(model)


def tensors_of(*modules: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
