"""Assignment of queries to targets at the lowest total cost (DETR, Carion et al. 2020, eq. 1)."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from neo_model.ops.boxes import cxcywh_to_xyxy, paired_iou_giou
from neo_model.utils import Fraction, NonNegativeFloat


class HungarianMatcher(nn.Module):
    """One-to-one matching of several decoder layers at once.

    The cost of a pair is ``class_cost`` * focal cost + ``bbox_cost`` * L1 of cxcywh + ``giou_cost`` * -GIoU, always
    in float32 (half precision turns the 1e-8 of the focal cost into 0 and the cost into infinity).

    Args:
        class_cost, bbox_cost, giou_cost: the three weights.
        alpha, gamma: of the focal cost.
    """

    def __init__(
        self,
        *,
        class_cost: NonNegativeFloat = 2.0,
        bbox_cost: NonNegativeFloat = 5.0,
        giou_cost: NonNegativeFloat = 2.0,
        alpha: Fraction = 0.25,
        gamma: NonNegativeFloat = 2.0,
    ) -> None:
        super().__init__()
        self.class_cost, self.bbox_cost, self.giou_cost = class_cost, bbox_cost, giou_cost
        self.alpha, self.gamma = alpha, gamma

    @torch.no_grad()
    def forward(
        self, logits_LBQC: Tensor, boxes_LBQ4: Tensor, labels_BT: Tensor, targets_BT4: Tensor, counts: list[int]
    ) -> list[list[tuple[Tensor, Tensor]]]:
        """Match each layer's queries with the targets.

        Args:
            logits_LBQC: class logits of L layers, B images, Q queries, C classes.
            boxes_LBQ4: boxes cxcywh in 0..1.
            labels_BT: int64 labels, padded to the T of the fullest image.
            targets_BT4: boxes cxcywh in 0..1, padded likewise.
            counts: targets of each image.

        Returns:
            For each layer and image (query index, target index), int64 on the CPU, sorted by query.

        Raises:
            FloatingPointError: a prediction is NaN or infinite.
        """
        # Padded per image: no image pays for another one's targets.
        cost = self.cost(logits_LBQC.float(), boxes_LBQ4.float(), labels_BT, targets_BT4)
        # The costs alone miss classes that no target has, and everything where there are no targets.
        finite = logits_LBQC.isfinite().all() & boxes_LBQ4.isfinite().all() & cost.isfinite().all()
        cost = cost.cpu()  # waits for the device; the next line then does not
        if not finite:
            raise FloatingPointError("the model's predictions hold NaN or infinity")
        costs = cost.numpy()
        return [
            [
                tuple(torch.as_tensor(index) for index in linear_sum_assignment(image_cost[:, :count]))
                for image_cost, count in zip(layer_cost, counts, strict=True)
            ]
            for layer_cost in costs
        ]

    def cost(self, logits_LBQC: Tensor, boxes_LBQ4: Tensor, labels_BT: Tensor, targets_BT4: Tensor) -> Tensor:
        """Costs [L, B, Q, T], float32."""
        L, _, Q, _ = logits_LBQC.shape
        probability = logits_LBQC.sigmoid().gather(3, labels_BT[None, :, None].expand(L, -1, Q, -1))
        positive = self.alpha * (1 - probability) ** self.gamma * -(probability + 1e-8).log()
        negative = (1 - self.alpha) * probability**self.gamma * -(1 - probability + 1e-8).log()
        distance = (boxes_LBQ4[:, :, :, None] - targets_BT4[None, :, None]).abs().sum(-1)
        boxes_xyxy, targets_xyxy = cxcywh_to_xyxy(boxes_LBQ4), cxcywh_to_xyxy(targets_BT4)
        _, giou = paired_iou_giou(boxes_xyxy[:, :, :, None], targets_xyxy[None, :, None])
        return self.class_cost * (positive - negative) + self.bbox_cost * distance - self.giou_cost * giou
