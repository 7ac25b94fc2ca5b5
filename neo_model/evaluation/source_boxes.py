"""From a network's output to the pixels of the file: one way for evaluation and prediction alike."""

import torch
from torch import Tensor

from neo_model.ops.boxes import cxcywh_to_xyxy
from neo_model.ops.geometry import Affine


def source_boxes_xyxy(
    boxes_cxcywh: Tensor, affine: Affine, network_wh: tuple[int, int], source_wh: tuple[int, int]
) -> Tensor:
    """Undo normalisation and letterbox, and clip to the image.

    Args:
        boxes_cxcywh: [n, 4] in 0..1 of the network's input.
        affine: source pixels to network pixels.
        network_wh: width and height of the network's input.
        source_wh: width and height of the image file.

    Returns:
        [n, 4] xyxy in source pixels. What is not finite stays so, for the caller to refuse.
    """
    boxes_xyxy = affine.invert(cxcywh_to_xyxy(boxes_cxcywh) * boxes_cxcywh.new_tensor(network_wh).repeat(2))
    clipped = torch.minimum(boxes_xyxy.clamp(min=0), boxes_xyxy.new_tensor(source_wh).repeat(2))
    return torch.where(boxes_xyxy.isfinite(), clipped, boxes_xyxy)
