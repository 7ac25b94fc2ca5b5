"""RT-DETR's training losses: varifocal classification, L1 and GIoU on the boxes, over every decoder layer.

Shapes: B images, L matched layers of Q queries each, then D denoising layers of R queries each, side by side as
M = L * Q + D * R; C classes, T targets of the fullest image, K pairs of a prediction and its target.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.losses.matcher import HungarianMatcher
from neo_model.ops.boxes import cxcywh_to_xyxy, paired_iou_giou
from neo_model.ops.targets import pad_targets, to_device
from neo_model.utils import Fraction, NonNegativeFloat, PositiveInt

TERMS = ("loss_vfl", "loss_bbox", "loss_giou")


class Criterion(nn.Module):
    """Weighted losses by name: ``loss_vfl``, ``loss_bbox``, ``loss_giou`` of the last decoder layer, ``*_aux_i`` of
    the other layers, ``*_dn_i`` of the denoising queries, and of the encoder's selection the highest ``*_aux_i`` or, of
    RT-DETRv2, ``*_enc_0``.

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
        self._last_pairs: tuple[list[_Stage], Tensor] | None = None

    def matched_ious(self) -> dict[str, Tensor]:
        """IoU [k] of the pairs that the last forward pass matched, on its device, by layer: the suffix of its losses.

        Those of denoising queries, which are not matched, are left out.
        """
        if self._last_pairs is None:
            return {}
        (matched, *_), iou_K = self._last_pairs
        layers = matched.num_layers
        iou_LK = iou_K[: matched.num_pairs].unflatten(0, (layers, matched.num_pairs // layers))
        return dict(zip(matched.suffixes, iou_LK, strict=True))

    def forward(
        self, outputs: dict, targets: list[dict[str, Tensor]], *, num_boxes: float | None = None
    ) -> dict[str, Tensor]:
        """Compute all losses, those of all layers in one pass. The host waits for the device once, in the matcher.

        Args:
            outputs: ``pred_logits`` [B, Q, C], ``pred_boxes`` [B, Q, 4] cxcywh in 0..1, and optionally ``aux_outputs``,
                ``enc_aux_outputs``, ``dn_aux_outputs`` (lists of the same) with ``dn_meta`` (``dn_positive_idx``,
                ``dn_num_group``).
            targets: per image ``labels`` int64 [n] and ``boxes`` [n, 4] cxcywh in 0..1, on any device.
            num_boxes: the normaliser; by default the number of targets in this batch. With gradient accumulation give
                that of the whole effective batch, so that the sum of the gradients equals one large batch's.

        Returns:
            Scalar float32 losses, weights applied; their sum is the training loss.

        Raises:
            FloatingPointError: a prediction is NaN or infinite.
        """
        counts = [len(target["labels"]) for target in targets]
        num_boxes = max(float(sum(counts) if num_boxes is None else num_boxes), 1.0)
        auxiliary, selected, denoised = (outputs.get(f"{kind}aux_outputs", []) for kind in ("", "enc_", "dn_"))
        matched = [outputs, *auxiliary, *selected]
        logits_BMC = torch.cat([layer["pred_logits"] for layer in matched + denoised], dim=1).float()
        boxes_BM4 = torch.cat([layer["pred_boxes"] for layer in matched + denoised], dim=1).float()
        labels_BT, targets_BT4 = pad_targets(targets, slots=max(counts), device=logits_BMC.device)

        layout = (len(matched), outputs["pred_logits"].shape[1])
        logits_BLQC, boxes_BLQ4 = (x[:, : layout[0] * layout[1]].unflatten(1, layout) for x in (logits_BMC, boxes_BM4))
        pairs_3LK = self.matcher(logits_BLQC, boxes_BLQ4, labels_BT, targets_BT4, counts)
        suffixes = [
            "", *(f"_aux_{i}" for i in range(len(auxiliary))), *(f"_enc_{i}" for i in range(len(selected)))
        ]
        stages = [_Stage(suffixes, layout[1], pairs_3LK, num_boxes)]
        if denoised:
            stages.append(_denoising_stage(denoised, outputs["dn_meta"], counts, num_boxes))
        index_2K = to_device(_index(stages, logits_BMC.shape[1], max(counts)), logits_BMC.device)

        vfl_M, terms_3K, iou_K = self._terms(logits_BMC, boxes_BM4, labels_BT, targets_BT4, *index_2K)
        self._last_pairs = stages, iou_K
        vfl = vfl_M.split([stage.num_layers * stage.num_queries for stage in stages])
        terms = terms_3K.split([stage.num_pairs for stage in stages], dim=1)
        return {name: loss for parts in zip(stages, vfl, terms, strict=True) for name, loss in _named(*parts)}

    def _terms(
        self,
        logits_BMC: Tensor,
        boxes_BM4: Tensor,
        labels_BT: Tensor,
        targets_BT4: Tensor,
        prediction_K: Tensor,
        target_K: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every query's varifocal loss as if it were background [M], what each pair adds to the terms [3, K], IoUs [K].

        With q as target, binary cross-entropy is softplus(x) - q x: the first part is computed everywhere, the second
        for pairs alone.
        """
        matched = boxes_BM4.flatten(0, 1).index_select(0, prediction_K)
        wanted = targets_BT4.flatten(0, 1).index_select(0, target_K)
        iou, giou = paired_iou_giou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(wanted))
        quality = iou.detach()
        matched_class = prediction_K * self.num_classes + labels_BT.flatten().index_select(0, target_K)
        weight = logits_BMC.detach().sigmoid().pow_(self.gamma).mul_(self.alpha)
        # A matched class weighs its IoU, also where that is 0: it is no negative.
        weight.view(-1).index_copy_(0, matched_class, quality)
        vfl_M = (weight * F.softplus(logits_BMC)).sum((0, 2))
        vfl_K = quality**2 * -logits_BMC.flatten().index_select(0, matched_class)
        bbox_K, giou_K = (matched - wanted).abs().sum(-1), 1 - giou
        weighted = (vfl_K * self.vfl_weight, bbox_K * self.bbox_weight, giou_K * self.giou_weight)
        return vfl_M * self.vfl_weight, torch.stack(weighted), quality


@dataclass(frozen=True)
class _Stage:
    """Layers with equally many queries and pairs, which lie side by side in the predictions.

    Attributes:
        suffixes: of the loss names, one a layer.
        num_queries: of a layer.
        pairs_3LK: image, query and target of every layer's pairs, on the CPU.
        num_boxes: what their losses are divided by.
    """

    suffixes: list[str]
    num_queries: int
    pairs_3LK: Tensor
    num_boxes: float

    @property
    def num_layers(self) -> int:
        return self.pairs_3LK.shape[1]

    @property
    def num_pairs(self) -> int:
        """Pairs of all layers."""
        return self.pairs_3LK.shape[1] * self.pairs_3LK.shape[2]


def _denoising_stage(layers: list[dict[str, Tensor]], meta: dict, counts: list[int], num_boxes: float) -> _Stage:
    """Each group's positive slots belong to the targets in their order, in every layer."""
    groups = meta["dn_num_group"]
    queries = meta["dn_positive_idx"]
    targets = meta.get("dn_target_idx") or [torch.arange(count).repeat(groups) for count in counts]
    images = [torch.full((len(index),), image) for image, index in enumerate(queries)]
    pairs = torch.stack([torch.cat(indices).cpu() for indices in (images, queries, targets)])
    suffixes = [f"_dn_{i}" for i in range(len(layers))]
    num_queries = layers[0]["pred_logits"].shape[1]
    return _Stage(suffixes, num_queries, pairs[:, None].expand(-1, len(layers), -1), num_boxes * groups)


def _index(stages: list[_Stage], num_predictions: int, slots: int) -> Tensor:
    """For every pair its prediction among all B * M and its target among the B * T slots, int64 [2, K]."""
    first, parts = 0, []
    for stage in stages:
        image, query, target = stage.pairs_3LK
        start_of_layer = first + torch.arange(stage.num_layers)[:, None] * stage.num_queries
        parts.append(torch.stack((image * num_predictions + start_of_layer + query, image * slots + target)).flatten(1))
        first += stage.num_layers * stage.num_queries
    return torch.cat(parts, dim=1)


def _named(stage: _Stage, vfl: Tensor, terms_3K: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The losses of a stage: sums over each layer's queries and pairs."""
    layers = stage.num_layers
    sums = terms_3K.unflatten(1, (layers, terms_3K.shape[1] // layers)).sum(2)
    background = vfl.unflatten(0, (layers, stage.num_queries)).sum(1)
    losses = torch.cat((sums[:1] + background, sums[1:])) / stage.num_boxes
    for suffix, values in zip(stage.suffixes, losses.unbind(1), strict=True):
        for name, value in zip(TERMS, values.unbind(), strict=True):
            yield f"{name}{suffix}", value
