"""Box arithmetic.

All boxes are tensors [..., 4] in one coordinate system, normalised or in pixels.
"""

import numpy as np
import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Centre and size to corners; [..., 4] -> [..., 4]."""
    centre, size = boxes_cxcywh.split(2, dim=-1)
    half = size * 0.5
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Corners to centre and size; [..., 4] -> [..., 4]."""
    low, high = boxes_xyxy.split(2, dim=-1)
    return torch.cat(((low + high) * 0.5, high - low), dim=-1)


def paired_iou_giou(first_xyxy: Tensor, second_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019, eq. 3) of boxes that broadcast against each other.

    Pairs are computed directly instead of taking the diagonal of an N x N matrix. Two zero-area boxes in one
    place have IoU 0 and GIoU 0 rather than NaN.

    Args:
        first_xyxy: [..., 4].
        second_xyxy: [..., 4], broadcastable.

    Returns:
        IoU [...] and GIoU [...].
    """
    first_low, first_high = first_xyxy.split(2, dim=-1)
    second_low, second_high = second_xyxy.split(2, dim=-1)
    overlap = (torch.minimum(first_high, second_high) - torch.maximum(first_low, second_low)).clamp(min=0)
    hull = torch.maximum(first_high, second_high) - torch.minimum(first_low, second_low)
    intersection, hull_area = _area(overlap), _area(hull)
    union = _area(first_high - first_low) + _area(second_high - second_low) - intersection
    # The smallest normal number keeps 0 / 0 at 0 and changes no box whose area is above it.
    tiny = torch.finfo(union.dtype).tiny
    iou = intersection / union.clamp(min=tiny)
    return iou, iou - (hull_area - union) / hull_area.clamp(min=tiny)


def _area(size: Tensor) -> Tensor:
    """Width times height, [..., 2] -> [...]."""
    width, height = size.unbind(-1)
    return width * height


@torch.no_grad()
def pairwise_l1_giou(first_cxcywh: Tensor, second_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distance of cxcywh and generalised IoU of every box with every other, without gradients.

    Equal to `paired_iou_giou` on broadcast boxes, but it works on one coordinate at a time and in place: matrices are
    large where pairs are not, and what costs is to pass over memory.

    Args:
        first_cxcywh: [..., M, 4].
        second_cxcywh: [..., N, 4], broadcastable in its leading dimensions.

    Returns:
        L1 [..., M, N] and GIoU [..., M, N].
    """
    # Each coordinate of all boxes side by side: every read of a matrix's row would skip the other three.
    first, second = (boxes.movedim(-1, 0).contiguous() for boxes in (first_cxcywh, second_cxcywh))
    first, second = first[..., :, None], second[..., None, :]
    distance = (first[0] - second[0]).abs_()
    for a, b in zip(first[1:], second[1:], strict=True):
        distance += (a - b).abs_()
    tiny = torch.finfo(distance.dtype).tiny
    overlap, hull_width = _overlap_and_hull(first[0], first[2], second[0], second[2])
    overlap_height, hull_height = _overlap_and_hull(first[1], first[3], second[1], second[3])
    intersection, hull_area = overlap.mul_(overlap_height), hull_width.mul_(hull_height).clamp_(min=tiny)
    union = (first[2] * first[3] + second[2] * second[3]).sub_(intersection).clamp_(min=tiny)
    giou = intersection.div_(union)
    # IoU - (hull - union) / hull, and 0 as everywhere where both boxes are one point.
    return distance, giou.add_(union.sub_(hull_area).div_(hull_area))


def _overlap_and_hull(centre: Tensor, size: Tensor, other_centre: Tensor, other_size: Tensor) -> tuple[Tensor, Tensor]:
    """Length that two intervals share and length of what holds both, [..., M, N] of [..., M, 1] and [..., 1, N]."""
    half, other_half = size * 0.5, other_size * 0.5
    overlap = torch.minimum(centre + half, other_centre + other_half)
    overlap -= torch.maximum(centre - half, other_centre - other_half)
    hull = (size + other_size).sub_(overlap)  # the smaller end of two and the larger one are the two together
    return overlap.clamp_(min=0), hull


def suppress_overlaps(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression within each class, on the CPU.

    What torchvision's ``batched_nms`` keeps, which moves the classes apart by adding to coordinates and so rounds them;
    to import it takes nearly as long as to import PyTorch, for it brings PyTorch's compiler along.

    Args:
        boxes_xyxy: [N, 4]; one that is not finite stays.
        scores: [N].
        labels: [N].
        threshold: IoU above which the lower-scored of two boxes is dropped.

    Returns:
        indices [K] of the boxes kept, by falling score.
    """
    order = scores.argsort(descending=True, stable=True)
    left, top, right, bottom = boxes_xyxy[order].T.numpy()
    labels = labels[order].numpy()
    widths = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    heights = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    intersections = widths.clip(min=0) * heights.clip(min=0)
    areas = (right - left) * (bottom - top)
    overlaps = intersections > threshold * (areas[:, None] + areas - intersections)
    overlaps = np.triu(overlaps & (labels[:, None] == labels), 1)
    kept = np.ones(len(order), bool)
    for rank in overlaps.any(1).nonzero()[0]:
        if kept[rank]:
            kept &= ~overlaps[rank]
    return order[torch.from_numpy(kept)]
