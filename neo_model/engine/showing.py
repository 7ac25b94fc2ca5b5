"""What the loggers show besides figures, once an epoch or evaluation: pictures, curves, distributions."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from neo_model.engine.training_loop import Batch
from neo_model.engine.validation_pictures import detection_pictures
from neo_model.evaluation import CocoEvaluator, draw_objects
from neo_model.ops.boxes import cxcywh_to_xyxy

if TYPE_CHECKING:
    from neo_model.engine.runner import Runner


class Showing:
    """Shows a run's insides to its loggers; without loggers it costs nothing."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._ious: dict[str, list[torch.Tensor]] = defaultdict(list)

    def first_of(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """``batches``, the first of which is shown as the model sees it: augmented, with its boxes."""
        if not (self._runner.loggers and self._runner.plan.pictures):
            yield from batches
            return
        for batch in itertools.islice(batches, 1):
            self._training(*batch)
            yield batch
            del batch  # its memory is the next ones'
        yield from batches

    def _training(self, images: torch.Tensor, targets: list[dict]) -> None:
        height, width = images.shape[-2:]
        count = self._runner.plan.pictures
        pictures = [
            draw_objects(
                image.permute(1, 2, 0).numpy(),
                cxcywh_to_xyxy(target["boxes"]).numpy() * (width, height, width, height),
                target["labels"].numpy(),
                self._runner.classes.names,
            )
            for image, target in zip(images[:count], targets, strict=False)
        ]
        # At the step that they are for: after a resume it comes again, and they with it.
        for logger in self._runner.loggers:
            logger.images(self._runner.progress.step + 1, "train", pictures)

    def note_matches(self, matched_ious: dict[str, torch.Tensor]) -> None:
        """Keep the IoUs of a step, on the device, for `matches`."""
        if self._runner.loggers:
            for suffix, ious in matched_ious.items():
                self._ious[suffix.lstrip("_") or "last"].append(ious)

    def matches(self) -> None:
        """How well the layers' matched boxes lie, of all that was noted since the last call or the last resume."""
        values = {f"matched_iou/{name}": torch.cat(parts).float().cpu().numpy() for name, parts in self._ious.items()}
        self._ious.clear()
        for logger in self._runner.loggers:
            logger.histograms(self._runner.progress.step, values)

    def evaluation(self, evaluator: CocoEvaluator, metrics: dict, model: nn.Module, epoch: float) -> None:
        """AP and curve of each class, and some validation images with their detections."""
        runner, step = self._runner, self._runner.progress.step
        if not runner.loggers:
            return
        figures = {f"val_class_AP/{name}": of_class["AP"] for name, of_class in metrics["per_class"].items()}
        curves = {f"val_precision/{name}": curve for name, curve in evaluator.precision_at_iou_50().items()}
        pictures = []
        if runner.plan.pictures:
            dataset = runner.data.val_dataset(runner.settings.overfit)
            pictures = detection_pictures(model, dataset, runner.plan, runner.hardware, runner.classes.names)
        for logger in runner.loggers:
            logger.scalars(step, epoch, figures)
            logger.precision_curves(step, curves)
            if pictures:
                logger.images(step, "val", pictures)
