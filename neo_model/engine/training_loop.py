"""One epoch of training, from top to bottom: load, forward, loss, backward, step, report."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from neo_model.engine.hardware import Hardware
from neo_model.engine.progress import Progress
from neo_model.utils import UserError

MAX_SKIPPED_IN_A_ROW = 30  # an fp16 scaler needs some 16 to come down from 65,536

Batch = tuple[Tensor, list[dict]]


@dataclass(frozen=True)
class Learner:
    """Everything a step changes."""

    model: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    ema: AveragedModel | None
    clip_norm: float | None


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        losses: weighted terms of the effective batch, on the device.
        gradient_norm: before clipping; not finite where the step was skipped.
        learning_rate: of the first parameter group outside the backbone.
        num_images: images in the effective batch.
    """

    losses: dict[str, Tensor]
    gradient_norm: float
    learning_rate: float
    num_images: int


def train_one_epoch(
    learner: Learner,
    batches: Iterable[Batch],
    progress: Progress,
    hardware: Hardware,
    after_step: Callable[[StepReport], None],
) -> None:
    """Train on ``batches``; ``hardware.accumulate`` of them make one optimizer step.

    Losses are normalised by the boxes of the whole effective batch, so that accumulating 2 x 4 images gives the
    gradient of one batch of 8. A step whose loss or gradient is not finite changes neither weights nor batch norm's
    statistics nor average nor schedule.

    Raises:
        UserError: too many steps in a row were skipped.
    """
    model = learner.model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    statistics = [b for m in model.modules() if isinstance(m, nn.BatchNorm2d) for b in m.buffers()]
    for group in grouped(batches, hardware.accumulate):
        # The forward pass writes its activations' mean and variance into them, finite or not, for good.
        statistics_before = [buffer.clone() for buffer in statistics]
        learner.optimizer.zero_grad(set_to_none=True)
        try:
            losses = accumulate_gradients(learner, group, hardware)
            learner.scaler.unscale_(learner.optimizer)
            norm = nn.utils.clip_grad_norm_(parameters, learner.clip_norm or math.inf).item()  # one host sync
        except FloatingPointError:  # of the matcher: a prediction is NaN or infinite, so the loss would be
            losses, norm = {}, math.nan

        progress.batch += len(group)
        learning_rate, num_images = learner.optimizer.param_groups[-1]["lr"], sum(len(images) for images, _ in group)
        if math.isfinite(norm):
            take_step(learner, progress)
        else:
            restore(statistics, statistics_before)
            skip_step(learner, progress, group)
        after_step(StepReport(losses, norm, learning_rate, num_images))


def accumulate_gradients(learner: Learner, group: list[Batch], hardware: Hardware) -> dict[str, Tensor]:
    """Forward and backward over the batches of one step; returns the weighted loss terms of all of them together.

    Raises:
        FloatingPointError: a prediction is NaN or infinite.
    """
    num_boxes = sum(len(target["labels"]) for _, targets in group for target in targets)
    sums: dict[str, Tensor] = {}
    for images, targets in group:
        images, targets = hardware.place(images), [to_device(t, hardware.device) for t in targets]
        with hardware.autocast():
            outputs = learner.model(images, targets)
        losses = learner.criterion(outputs, targets, num_boxes=num_boxes)
        learner.scaler.scale(sum(losses.values())).backward()
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0) + loss.detach()
    return sums


def take_step(learner: Learner, progress: Progress) -> None:
    """Update the weights, then what follows them."""
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.scheduler.step()
    if learner.ema is not None:
        learner.ema.update_parameters(learner.model)
    progress.step += 1
    progress.skipped_in_a_row = 0


def skip_step(learner: Learner, progress: Progress, group: list[Batch]) -> None:
    """Leave everything as it is, but let the scaler come down."""
    scaler = learner.scaler
    if scaler.is_enabled():
        scaler.scale(torch.zeros((), device=next(learner.model.parameters()).device))  # unused, it has no scale yet
        scaler.update(scaler.get_scale() * 0.5)
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        image_ids = [target.get("image_id") for _, targets in group for target in targets]
        raise UserError(
            f"step {progress.step}",
            f"{MAX_SKIPPED_IN_A_ROW} steps in a row had a loss or gradient that is not finite, last with images "
            f"{image_ids[:8]}",
            "lower optim.lr, or use hardware.precision=fp32",
        )


def restore(tensors: list[Tensor], values: list[Tensor]) -> None:
    """Put the values back, in place."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def to_device(target: dict, device: torch.device) -> dict:
    """The tensors that model and criterion read, on the device."""
    return {key: target[key].to(device, non_blocking=True) for key in ("labels", "boxes")}
