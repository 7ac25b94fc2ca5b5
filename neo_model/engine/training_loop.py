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
    gradient of one batch of 8. A step whose loss or gradient is not finite changes neither weights nor average nor
    schedule.

    Raises:
        UserError: too many steps in a row were skipped.
    """
    model, criterion = learner.model.train(), learner.criterion
    parameters = [p for p in model.parameters() if p.requires_grad]
    for group in grouped(batches, hardware.accumulate):
        num_boxes = sum(len(target["labels"]) for _, targets in group for target in targets)
        sums: dict[str, Tensor] = {}
        learner.optimizer.zero_grad(set_to_none=True)
        try:
            for images, targets in group:
                images, targets = hardware.place(images), [to_device(t, hardware.device) for t in targets]
                with hardware.autocast():
                    outputs = model(images, targets)
                losses = criterion(outputs, targets, num_boxes=num_boxes)
                learner.scaler.scale(sum(losses.values())).backward()
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0) + loss.detach()
            learner.scaler.unscale_(learner.optimizer)
            norm = nn.utils.clip_grad_norm_(parameters, learner.clip_norm or math.inf).item()  # one host sync
        except FloatingPointError:  # of the matcher: a prediction is NaN or infinite, so the loss would be
            norm = math.nan

        progress.batch += len(group)
        report = StepReport(
            sums, norm, learner.optimizer.param_groups[-1]["lr"], sum(len(images) for images, _ in group)
        )
        if math.isfinite(norm):
            take_step(learner)
            progress.step += 1
            progress.skipped_in_a_row = 0
        else:
            skip_step(learner, progress, group)
        after_step(report)


def take_step(learner: Learner) -> None:
    """Update the weights, then what follows them."""
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.scheduler.step()
    if learner.ema is not None:
        learner.ema.update_parameters(learner.model)


def skip_step(learner: Learner, progress: Progress, group: list[Batch]) -> None:
    """Leave everything as it is, but let the scaler come down."""
    if learner.scaler.is_enabled():
        learner.scaler.update(learner.scaler.get_scale() * 0.5)
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        image_ids = [target.get("image_id") for _, targets in group for target in targets]
        raise UserError(
            f"step {progress.step}",
            f"{MAX_SKIPPED_IN_A_ROW} steps in a row had a loss or gradient that is not finite, last with images "
            f"{image_ids[:8]}",
            "lower optim.lr, or use hardware.precision=fp32",
        )


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def to_device(target: dict, device: torch.device) -> dict:
    """The tensors that model and criterion read, on the device."""
    return {key: target[key].to(device, non_blocking=True) for key in ("labels", "boxes")}
