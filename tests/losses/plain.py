"""Matching and losses as the papers write them down: layer by layer and image by image."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou

from neo_model.ops.boxes import cxcywh_to_xyxy


def flat_pairs(outputs: dict, targets: list[dict]) -> list[tuple[Tensor, Tensor]]:
    """Queries and targets that belong together in each image, from the costs of every query of the batch with every
    target of the batch, as DETR has them."""
    counts = [len(target["labels"]) for target in targets]
    boxes, wanted = outputs["pred_boxes"].detach(), torch.cat([target["boxes"] for target in targets])
    p = outputs["pred_logits"].detach().sigmoid()[..., torch.cat([target["labels"] for target in targets])]
    focal = 0.75 * p**2 * (1 - p + 1e-8).log() - 0.25 * (1 - p) ** 2 * (p + 1e-8).log()
    overlap = generalized_box_iou(cxcywh_to_xyxy(boxes.flatten(0, 1)), cxcywh_to_xyxy(wanted)).view_as(focal)
    costs = (2 * focal + 5 * torch.cdist(boxes, wanted, p=1) - 2 * overlap).split(counts, dim=2)
    solutions = [linear_sum_assignment(cost[image]) for image, cost in enumerate(costs)]
    return [tuple(map(torch.from_numpy, solution)) for solution in solutions]


def plain_losses(outputs: dict, targets: list[dict], *, num_boxes: float, pairs_of: list[tuple]) -> list[Tensor]:
    """The three terms of one layer."""
    logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
    quality, weight = torch.zeros_like(logits), 0.75 * logits.detach().sigmoid() ** 2
    distance, overlap = boxes.sum() * 0, boxes.sum() * 0
    for image, (queries, indices) in enumerate(pairs_of):
        matched, wanted = boxes[image, queries], targets[image]["boxes"][indices]
        corners = cxcywh_to_xyxy(matched), cxcywh_to_xyxy(wanted)
        labels, iou = targets[image]["labels"][indices], box_iou(*corners).diag().detach()
        quality[image, queries, labels] = weight[image, queries, labels] = iou
        distance = distance + (matched - wanted).abs().sum()
        overlap = overlap + (1 - generalized_box_iou(*corners).diag()).sum()
    vfl = F.binary_cross_entropy_with_logits(logits, quality, weight=weight, reduction="sum")
    return [vfl / num_boxes, 5 * distance / num_boxes, 2 * overlap / num_boxes]
