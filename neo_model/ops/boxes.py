"""Box arithmetic on pairs; the pairwise matrices of evaluation and prediction come from torchvision.ops.

All boxes are tensors [..., 4] in one coordinate system, normalised or in pixels.
"""

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
    first_low, first_high = first_xyxy[..., :2], first_xyxy[..., 2:]
    second_low, second_high = second_xyxy[..., :2], second_xyxy[..., 2:]
    overlap = (torch.minimum(first_high, second_high) - torch.maximum(first_low, second_low)).clamp(min=0)
    hull = torch.maximum(first_high, second_high) - torch.minimum(first_low, second_low)
    intersection = overlap[..., 0] * overlap[..., 1]
    hull_area = hull[..., 0] * hull[..., 1]
    union = (first_high - first_low).prod(-1) + (second_high - second_low).prod(-1) - intersection
    # The smallest normal number keeps 0 / 0 at 0 and changes no box whose area is above it.
    tiny = torch.finfo(union.dtype).tiny
    iou = intersection / union.clamp(min=tiny)
    return iou, iou - (hull_area - union) / hull_area.clamp(min=tiny)
