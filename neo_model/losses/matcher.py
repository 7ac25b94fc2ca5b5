"""Assignment of queries to targets at the lowest total cost (DETR, Carion et al. 2020, eq. 1).

Shapes: B images, L layers, Q queries, C classes, T targets of the fullest image, K pairs of a layer.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from neo_model.ops.boxes import pairwise_l1_giou
from neo_model.utils import Fraction, NonNegativeFloat

# Costs that a CPU works out at a time, so that they stay in its cache; a GPU does all of them in one go.
COSTS_IN_CACHE = 2**18
# Starting threads takes as long as solving about as many pairs.
PAIRS_WORTH_THREADS = 4000


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
        self, logits_BLQC: Tensor, boxes_BLQ4: Tensor, labels_BT: Tensor, targets_BT4: Tensor, counts: list[int]
    ) -> Tensor:
        """Match each layer's queries with the targets. The host waits for the device once.

        Args:
            logits_BLQC: class logits.
            boxes_BLQ4: boxes cxcywh in 0..1.
            labels_BT: int64 labels, padded to the T of the fullest image.
            targets_BT4: boxes cxcywh in 0..1, padded likewise.
            counts: targets of each image.

        Returns:
            image, query and target of every pair, int64 [3, L, K] on the CPU, image after image. Each target has a
            query, or each query a target where an image has more targets than queries.

        Raises:
            FloatingPointError: a prediction is NaN or infinite.
        """
        costs_BLTQ = self._costs_on_host(logits_BLQC.float(), boxes_BLQ4.float(), labels_BT, targets_BT4)
        num_layers = costs_BLTQ.shape[1]
        problems = [
            costs_BLTQ[image, layer, :count] for layer in range(num_layers) for image, count in enumerate(counts)
        ]
        try:
            solutions = solve(problems)
        except ValueError as error:  # finite predictions can still overflow a cost
            raise FloatingPointError("the costs of the model's predictions are not finite") from error
        images = np.repeat(np.arange(len(counts)), [len(target) for target, _ in solutions[: len(counts)]])
        targets, queries = (np.concatenate(parts).reshape(num_layers, -1) for parts in zip(*solutions, strict=True))
        return torch.from_numpy(np.stack((np.broadcast_to(images, queries.shape), queries, targets)))

    def _costs_on_host(
        self, logits_BLQC: Tensor, boxes_BLQ4: Tensor, labels_BT: Tensor, targets_BT4: Tensor
    ) -> np.ndarray:
        """Costs [B, L, T, Q]. Whether the predictions are finite travels with them in the same copy.

        The costs alone miss classes that no target has, and everything where there are no targets.
        """
        B, L, Q, _ = logits_BLQC.shape
        T = labels_BT.shape[1]
        extremes = torch.stack((*torch.aminmax(logits_BLQC), *torch.aminmax(boxes_BLQ4)))  # NaN comes through
        packed = logits_BLQC.new_empty(len(extremes) + B * L * T * Q)
        packed[: len(extremes)] = extremes
        costs_BLTQ = packed[len(extremes) :].view(B, L, T, Q)
        images = B if packed.is_cuda else max(1, COSTS_IN_CACHE // max(1, L * T * Q))
        for start in range(0, B if T else 0, images):
            part = slice(start, start + images)
            costs_BLTQ[part] = self.cost(logits_BLQC[part], boxes_BLQ4[part], labels_BT[part], targets_BT4[part])
        on_host = packed.cpu().numpy()  # the one wait for the device
        if not np.isfinite(on_host[: len(extremes)]).all():
            raise FloatingPointError("the model's predictions hold NaN or infinity")
        return on_host[len(extremes) :].reshape(B, L, T, Q)

    def cost(self, logits_BLQC: Tensor, boxes_BLQ4: Tensor, labels_BT: Tensor, targets_BT4: Tensor) -> Tensor:
        """Costs [B, L, T, Q], float32. Padded per image: no image pays for another one's targets."""
        B, L, Q, C = logits_BLQC.shape
        T = labels_BT.shape[1]
        logits_BLCQ, index = logits_BLQC.transpose(2, 3), labels_BT[:, None, :, None].expand(B, L, T, Q)
        if T < C:
            total = self._class_cost(logits_BLCQ.gather(2, index))
        else:
            total = self._class_cost(logits_BLCQ).gather(2, index)
        distance, giou = pairwise_l1_giou(targets_BT4[:, None], boxes_BLQ4)
        return total.mul_(self.class_cost).add_(distance, alpha=self.bbox_cost).sub_(giou, alpha=self.giou_cost)

    def _class_cost(self, logits: Tensor) -> Tensor:
        """The focal cost of each logit, any shape."""
        probability = logits.sigmoid()
        complement = 1 - probability
        positive = (probability + 1e-8).log_().mul_(complement**self.gamma)
        negative = (complement + 1e-8).log_().mul_(probability**self.gamma)
        return negative.mul_(1 - self.alpha).sub_(positive, alpha=self.alpha)


def solve(problems: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row and column indices of each problem's cheapest assignment; scipy lets threads run beside each other."""
    threads = torch.get_num_threads()
    if threads == 1 or sum(len(problem) for problem in problems) < PAIRS_WORTH_THREADS:
        return [linear_sum_assignment(problem) for problem in problems]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(linear_sum_assignment, problems))
