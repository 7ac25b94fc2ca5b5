"""One epoch of training, from top to bottom: load, forward, loss, backward, step, report."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from neo_model.engine.batch_norm import BatchNormStatistics
from neo_model.engine.hardware import Hardware
from neo_model.engine.progress import Progress
from neo_model.optim.ema import WeightAverage
from neo_model.utils import UserError

MAX_SKIPPED_IN_A_ROW = 30  # an fp16 scaler needs some 16 to come down from 65,536
NOT_FINITE_REMEDY = "resume with hardware.precision=fp32, or start a new run with a lower optim.lr"

Batch = tuple[Tensor, list[dict]]


@dataclass(frozen=True)
class Learner:
    """Everything a step changes.

    Raises:
        ValueError: the optimizer is not a fused one, which alone can leave a step out without asking the host.
    """

    model: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    ema: WeightAverage | None
    clip_norm: float | None

    def __post_init__(self) -> None:
        if not all(group.get("fused") for group in self.optimizer.param_groups):
            raise ValueError("the optimizer must be made with fused=True")


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        losses: weighted terms of the effective batch; empty where a prediction was not finite.
        gradient_norm: before clipping; not finite where the step was skipped.
        learning_rate: of the first parameter group outside the backbone.
        image_ids: of the effective batch; None for an image without.
        matched_ious: of its last batch, on the device; see `Criterion.matched_ious`.
    """

    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float
    image_ids: list[int | None]
    matched_ious: dict[str, Tensor]


@dataclass(frozen=True)
class OpenStep:
    """A step that the device has been told to take; the host learns later what came of it.

    Attributes:
        names: of the loss terms.
        figures: gradient norm and loss terms, in host memory once ``arrival`` has happened.
        arrival: None on a CPU.
        learning_rate, matched_ious: as in `StepReport`.
        num_batches: accumulated in it.
        targets: of all its images.
    """

    names: list[str]
    figures: Tensor
    arrival: torch.cuda.Event | None
    learning_rate: float
    num_batches: int
    targets: list[dict]
    matched_ious: dict[str, Tensor]

    def report(self) -> StepReport:
        """What it did. It waits for the figures, unless the device has been waited for since."""
        if self.arrival is not None:
            self.arrival.synchronize()
        norm, *losses = self.figures.tolist()
        terms = dict(zip(self.names, losses, strict=True))
        image_ids = [target.get("image_id") for target in self.targets]
        return StepReport(terms, norm, self.learning_rate, image_ids, self.matched_ious)


def train_one_epoch(
    learner: Learner,
    batches: Iterable[Batch],
    progress: Progress,
    hardware: Hardware,
    after_step: Callable[[StepReport], None],
) -> None:
    """Train on ``batches``; ``hardware.accumulate`` of them make one optimizer step.

    Losses are normalised by the boxes of the whole effective batch, so that accumulating 2 x 4 images gives the
    gradient of one batch of 8. With denoising, whose padding and number of groups follow the fullest image of each
    batch, it is so only where these are the same. A step whose loss or gradient is not finite changes neither weights
    nor batch norm's statistics nor average nor schedule.

    The host waits for the device once a forward pass, in the matcher. Whether a gradient is finite is the device's to
    act upon; the host hears of it one step later, still before the schedule and the average matter again.

    Raises:
        UserError: too many steps in a row were skipped.
    """
    learner.model.train()
    statistics = BatchNormStatistics(learner.model)
    open_step = None

    def settle(statistics_after: list[Tensor] | None = None) -> None:
        if open_step is not None:
            report = open_step.report()
            earlier = None if statistics_after is None else statistics.by_buffer(statistics_after)
            follow(learner, progress, open_step, report, earlier)
            after_step(report)

    for group in grouped(batches, hardware.accumulate):
        statistics_before = statistics.copy()
        learner.optimizer.zero_grad(set_to_none=True)
        try:
            losses = accumulate_gradients(learner, group, hardware)
        except FloatingPointError:  # of the matcher: a prediction is NaN or infinite, so the loss would be
            losses = None
        settle(statistics_before)  # of the step before: its figures have arrived, its weights are still there
        if losses is None:
            open_step = skip_step(learner, group, statistics, statistics_before)
        else:
            open_step = take_step(learner, group, losses, statistics, statistics_before)
        if open_step.arrival is None:
            settle()
            open_step = None
    settle()


def accumulate_gradients(learner: Learner, group: list[Batch], hardware: Hardware) -> dict[str, Tensor]:
    """Forward and backward over the batches of one step; returns the weighted loss terms of all of them together.

    Raises:
        FloatingPointError: a prediction is NaN or infinite.
    """
    num_boxes = sum(len(target["labels"]) for _, targets in group for target in targets)
    sums = 0.0
    for images, targets in group:
        with hardware.autocast():
            outputs = learner.model(hardware.place(images), targets)
        losses = learner.criterion(outputs, targets, num_boxes=num_boxes)
        terms = torch.stack(list(losses.values()))
        learner.scaler.scale(terms.sum()).backward()
        sums = sums + terms.detach()
    return dict(zip(losses, sums, strict=True))


def take_step(
    learner: Learner,
    group: list[Batch],
    losses: dict[str, Tensor],
    statistics: BatchNormStatistics,
    statistics_before: list[Tensor],
) -> OpenStep:
    """Have the device update the weights if the gradient is finite, else restore batch norm. The host does not wait."""
    optimizer, scaler = learner.optimizer, learner.scaler
    scaler.unscale_(optimizer)
    parameters = [parameter for part in optimizer.param_groups for parameter in part["params"]]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    not_finite = norm.isfinite().logical_not()
    # What a scaler tells a fused optimizer, too: to divide the gradients as it reads them, which clips them without a
    # pass of its own over memory, and to leave the step out.
    optimizer.grad_scale = clipping_divisor(norm, learner.clip_norm)
    optimizer.found_inf = not_finite.float()
    optimizer.step()
    scaler.update()
    statistics.put_back(statistics_before, where=not_finite)
    figures = torch.stack((norm, *losses.values())).to("cpu", non_blocking=True)
    return opened(learner, group, list(losses), figures, event_now(norm.device))


def clipping_divisor(norm: Tensor, clip_norm: float | None) -> Tensor | None:
    """What to divide gradients of this length by so that they are no longer than ``clip_norm``, if there is one."""
    return None if clip_norm is None else ((norm + 1e-6) / clip_norm).clamp_(min=1)


def skip_step(
    learner: Learner, group: list[Batch], statistics: BatchNormStatistics, statistics_before: list[Tensor]
) -> OpenStep:
    """Restore batch norm after a forward pass that gave nothing to learn from, and let the scaler come down."""
    device = next(learner.model.parameters()).device
    statistics.put_back(statistics_before, where=torch.ones((), dtype=torch.bool, device=device))
    scaler = learner.scaler
    if scaler.is_enabled():
        scaler.scale(torch.zeros((), device=device))  # unused, it has no scale yet
        scaler.update(scaler.get_scale() * 0.5)
    return opened(learner, group, [], torch.tensor([math.nan]), None)


def opened(
    learner: Learner, group: list[Batch], names: list[str], figures: Tensor, arrival: torch.cuda.Event | None
) -> OpenStep:
    """The step over a group of batches, without keeping their images."""
    targets = [target for _, targets in group for target in targets]
    learning_rate, matched_ious = learner.optimizer.param_groups[-1]["lr"], learner.criterion.matched_ious()
    return OpenStep(names, figures, arrival, learning_rate, len(group), targets, matched_ious)


def follow(
    learner: Learner,
    progress: Progress,
    step: OpenStep,
    report: StepReport,
    earlier: dict[Tensor, Tensor] | None,
) -> None:
    """Everything that comes after the weights: schedule, average, progress.

    ``earlier`` holds batch norm's buffers as the step left them, where there has been a forward pass since.

    Raises:
        UserError: too many steps in a row were skipped.
    """
    progress.batch += step.num_batches
    if math.isfinite(report.gradient_norm):
        learner.scheduler.step()
        if learner.ema is not None:
            learner.ema.update_parameters(learner.model, earlier)
        progress.step += 1
        progress.skipped_in_a_row = 0
        return
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise UserError(
            f"step {progress.step}",
            f"{MAX_SKIPPED_IN_A_ROW} steps in a row had a loss or gradient that is not finite, last with images "
            f"{report.image_ids[:8]}",
            NOT_FINITE_REMEDY,
        )


def event_now(device: torch.device) -> torch.cuda.Event | None:
    """An event that happens when the GPU has come this far; None on a CPU, which is here already."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group

