"""RT-DETR's training losses: varifocal classification, L1 and GIoU on the boxes, over every decoder layer.

Shapes: L layers, B images, Q queries, C classes, T targets of the fullest image, K matched pairs of all layers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.losses.matcher import HungarianMatcher
from neo_model.ops.boxes import cxcywh_to_xyxy, paired_iou_giou
from neo_model.utils import Fraction, NonNegativeFloat, PositiveInt


class Criterion(nn.Module):
    """Weighted losses by name: ``loss_vfl``, ``loss_bbox``, ``loss_giou`` of the last decoder layer, ``*_aux_i`` of
    the other layers (the highest index is the encoder's selection) and ``*_dn_i`` of the denoising queries.

    Args:
        num_classes: C.
        matcher: assigns queries to targets.
        vfl_weight, bbox_weight, giou_weight: weights of the three terms.
        alpha, gamma: of the varifocal loss (Zhang et al. 2021, eq. 2): negatives weigh alpha * p^gamma.
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt,
        matcher: HungarianMatcher,
        vfl_weight: NonNegativeFloat = 1.0,
        bbox_weight: NonNegativeFloat = 5.0,
        giou_weight: NonNegativeFloat = 2.0,
        alpha: Fraction = 0.75,
        gamma: NonNegativeFloat = 2.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.matcher = num_classes, matcher
        self.vfl_weight, self.bbox_weight, self.giou_weight = vfl_weight, bbox_weight, giou_weight
        self.alpha, self.gamma = alpha, gamma

    def forward(
        self, outputs: dict, targets: list[dict[str, Tensor]], *, num_boxes: float | None = None
    ) -> dict[str, Tensor]:
        """Compute all losses.

        Args:
            outputs: ``pred_logits`` [B, Q, C], ``pred_boxes`` [B, Q, 4] cxcywh in 0..1, and optionally ``aux_outputs``,
                ``dn_aux_outputs`` (lists of the same) with ``dn_meta`` (``dn_positive_idx``, ``dn_num_group``).
            targets: per image ``labels`` int64 [n] and ``boxes`` [n, 4] cxcywh in 0..1.
            num_boxes: the normaliser; by default the number of targets in this batch. With gradient accumulation give
                that of the whole effective batch, so that the sum of the gradients equals one large batch's.

        Returns:
            Scalar float32 losses, weights applied; their sum is the training loss.

        Raises:
            FloatingPointError: a prediction is NaN or infinite.
        """
        if num_boxes is None:
            num_boxes = sum(len(t["labels"]) for t in targets)
        num_boxes = max(float(num_boxes), 1.0)
        layers = [outputs, *outputs.get("aux_outputs", [])]
        logits, boxes = _stack(layers)
        labels, boxes_padded, counts = pad_targets(targets, logits.device)
        matches = self.matcher(logits, boxes, labels, boxes_padded, counts)
        terms = self._terms(logits, boxes, targets, matches, num_boxes)
        losses = _named(terms, ["", *(f"_aux_{i}" for i in range(len(layers) - 1))])

        if outputs.get("dn_aux_outputs"):
            logits, boxes = _stack(outputs["dn_aux_outputs"])
            meta = outputs["dn_meta"]
            matches = [denoising_matches(meta, counts)] * len(logits)
            terms = self._terms(logits, boxes, targets, matches, num_boxes * meta["dn_num_group"])
            losses |= _named(terms, [f"_dn_{i}" for i in range(len(logits))])
        return losses

    def _terms(
        self,
        logits_LBQC: Tensor,
        boxes_LBQ4: Tensor,
        targets: list[dict[str, Tensor]],
        matches: list[list[tuple[Tensor, Tensor]]],
        num_boxes: float,
    ) -> dict[str, Tensor]:
        """The three weighted terms [L] of all layers in one pass."""
        layer, image, query, label, target_xyxy, target_cxcywh = _pairs(targets, matches, logits_LBQC.device)
        matched = boxes_LBQ4[layer, image, query]
        iou, giou = paired_iou_giou(cxcywh_to_xyxy(matched), target_xyxy)

        quality = torch.zeros_like(logits_LBQC)
        quality[layer, image, query, label] = iou.detach()
        probability = logits_LBQC.detach().sigmoid()
        weight = self.alpha * probability**self.gamma
        # A matched class weighs its IoU, also where that is 0: it is no negative.
        weight[layer, image, query, label] = iou.detach()
        vfl = F.binary_cross_entropy_with_logits(logits_LBQC, quality, weight=weight, reduction="none").sum((1, 2, 3))

        per_layer = torch.zeros(2, len(logits_LBQC), device=logits_LBQC.device)
        pair_losses = torch.stack(((matched - target_cxcywh).abs().sum(-1), 1 - giou))
        bbox, giou_loss = per_layer.index_add(1, layer, pair_losses)
        return {
            "loss_vfl": vfl * (self.vfl_weight / num_boxes),
            "loss_bbox": bbox * (self.bbox_weight / num_boxes),
            "loss_giou": giou_loss * (self.giou_weight / num_boxes),
        }


def pad_targets(targets: list[dict[str, Tensor]], device: torch.device) -> tuple[Tensor, Tensor, list[int]]:
    """Labels [B, T] (0 where empty), boxes [B, T, 4] (0 where empty) and the count of each image."""
    counts = [len(t["labels"]) for t in targets]
    labels = torch.zeros(len(targets), max(counts), dtype=torch.int64, device=device)
    boxes = torch.zeros(len(targets), max(counts), 4, device=device)
    for i, (target, n) in enumerate(zip(targets, counts, strict=True)):
        labels[i, :n] = target["labels"]
        boxes[i, :n] = target["boxes"]
    return labels, boxes, counts


def denoising_matches(meta: dict, counts: list[int]) -> list[tuple[Tensor, Tensor]]:
    """(query, target) of every image: each group's positive slots in the order of the targets."""
    groups = meta["dn_num_group"]
    targets = meta.get("dn_target_idx") or [torch.arange(n).repeat(groups) for n in counts]
    return list(zip(meta["dn_positive_idx"], targets, strict=True))


def _stack(layers: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Float32 logits [L, B, Q, C] and boxes [L, B, Q, 4]."""
    logits = torch.stack([layer["pred_logits"] for layer in layers])
    return logits.float(), torch.stack([layer["pred_boxes"] for layer in layers]).float()


def _pairs(
    targets: list[dict[str, Tensor]], matches: list[list[tuple[Tensor, Tensor]]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All matched pairs as flat tensors [K]: layer, image, query, label, and the target box [K, 4] twice."""
    start, starts = 0, []
    for target in targets:
        starts.append(start)
        start += len(target["labels"])
    rows = [
        torch.stack((torch.full_like(query, layer), torch.full_like(query, image), query, index + starts[image]))
        for layer, images in enumerate(matches)
        for image, (query, index) in enumerate(images)
    ]
    layer, image, query, index = torch.cat(rows, dim=1).to(device, non_blocking=True)
    labels = torch.cat([t["labels"] for t in targets]).to(device)[index]
    boxes_cxcywh = torch.cat([t["boxes"] for t in targets]).to(device, torch.float32)[index]
    return layer, image, query, labels, cxcywh_to_xyxy(boxes_cxcywh), boxes_cxcywh


def _named(terms: dict[str, Tensor], suffixes: list[str]) -> dict[str, Tensor]:
    """Terms [L] by name, layer after layer."""
    return {
        f"{name}{suffix}": value
        for suffix, values in zip(suffixes, zip(*(t.unbind() for t in terms.values()), strict=True), strict=True)
        for name, value in zip(terms, values, strict=True)
    }
