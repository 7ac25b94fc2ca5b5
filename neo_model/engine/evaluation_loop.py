"""Evaluation: every validation image through the network, its detections into the COCO evaluator."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from neo_model.engine.hardware import PRECISIONS, Hardware
from neo_model.evaluation import CocoEvaluator, source_boxes_xyxy
from neo_model.models import postprocess
from neo_model.models.fusion import fused
from neo_model.ops.boxes import suppress_overlaps
from neo_model.utils import Fraction, NonNegativeInt, PositiveInt


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """When the validation set is evaluated, and which detections count.

    Attributes:
        every: epochs between evaluations; the last epoch is always evaluated.
        at_start: evaluate before the first step as well.
        conf_threshold: detections with a lower score are dropped.
        nms_threshold: IoU above which the lower-scored box of one class is dropped; None suppresses nothing.
        max_detections: kept per image, before the COCO limits.
        patience: stop after this many evaluations without a better AP; None never stops.
        pictures: validation images drawn with their boxes for TensorBoard and W&B.
        backend: what computes the COCO figures; see ``CocoEvaluator``.
    """

    every: PositiveInt = 1
    at_start: bool = False
    conf_threshold: Fraction = 0.0
    nms_threshold: Fraction | None = None
    max_detections: PositiveInt = 300
    patience: PositiveInt | None = None
    pictures: NonNegativeInt = 8
    backend: Literal["fast", "pycocotools"] = "fast"

    def is_due(self, finished_epochs: int, epochs: int) -> bool:
        """Whether to evaluate after that many epochs of all ``epochs``."""
        return finished_epochs % self.every == 0 or finished_epochs == epochs


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one image: ``boxes_xyxy`` [n, 4] in pixels of its file, ``scores`` [n], ``labels`` [n]."""

    image_id: int
    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor


def inference_form(model: nn.Module, hardware: Hardware) -> nn.Module:
    """A copy of an `RTDETR` on the device, with norms folded into convolutions, for `detect`."""
    return hardware.place_model(fused(model, dtype=PRECISIONS[hardware.precision]))


@torch.no_grad()
def detect(
    model: nn.Module, images: Tensor, targets: list[dict], plan: EvaluationPlan, hardware: Hardware
) -> list[ImageDetections]:
    """Detections of a batch, thresholded, in pixels of the source files and on the CPU."""
    network_wh = (images.shape[-1], images.shape[-2])
    with hardware.autocast():
        outputs = model(hardware.place(images))
    labels, boxes, scores = (t.cpu() for t in postprocess(outputs, num_top=plan.max_detections))
    found = []
    for target, label, box_cxcywh, score in zip(targets, labels, boxes, scores, strict=True):
        box_xyxy = source_boxes_xyxy(box_cxcywh, target["affine"], network_wh, target["source_wh"])
        # Scores that are not finite stay in, for the evaluator to refuse.
        keep = ~(score < plan.conf_threshold)
        box_xyxy, label, score = box_xyxy[keep], label[keep], score[keep]
        if plan.nms_threshold is not None:
            chosen = suppress_overlaps(box_xyxy, score, label, plan.nms_threshold)
            box_xyxy, label, score = box_xyxy[chosen], label[chosen], score[chosen]
        found.append(ImageDetections(target["image_id"], box_xyxy, score, label))
    return found


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, list[dict]]],
    evaluator: CocoEvaluator,
    plan: EvaluationPlan,
    hardware: Hardware,
) -> None:
    """Run ``model`` over ``batches`` into ``evaluator``; the model is left in evaluation mode."""
    model.eval()
    for images, targets in batches:
        for found in detect(model, images, targets, plan, hardware):
            evaluator.update(found.image_id, found.boxes_xyxy, found.scores, found.labels)
