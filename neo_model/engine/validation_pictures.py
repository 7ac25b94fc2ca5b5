"""Validation images with what was found in them and what is there."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from neo_model.engine.evaluation_loop import EvaluationPlan, detect
from neo_model.engine.hardware import Hardware
from neo_model.evaluation import draw_detections
from neo_model.ops.boxes import cxcywh_to_xyxy
from neo_model.ops.geometry import Affine

DRAWN_SCORE = 0.3  # detections below it are left out


def detection_pictures(
    model: nn.Module, dataset: Dataset, plan: EvaluationPlan, hardware: Hardware, class_names: list[str]
) -> list[np.ndarray]:
    """The first ``plan.pictures`` samples as the network sees them, uint8 [H, W, 3] RGB, boxes drawn in."""
    pictures = []
    for index in range(min(plan.pictures, len(dataset))):
        image, target = dataset[index]
        height, width = image.shape[1:]
        # Drawn on the network's input, so the affine back to the file is left out.
        shown = target | {"affine": Affine(1.0, 1.0, 0.0, 0.0), "source_wh": (width, height)}
        (found,) = detect(model, image[None], [shown], plan, hardware)
        keep = found.scores >= DRAWN_SCORE
        true_xyxy = cxcywh_to_xyxy(target["boxes"]) * torch.tensor([width, height, width, height])
        pictures.append(
            draw_detections(
                image.permute(1, 2, 0).numpy(), found.boxes_xyxy[keep].numpy(), found.labels[keep].numpy(),
                found.scores[keep].numpy(), class_names, (true_xyxy.numpy(), target["labels"].numpy()),
            )
        )  # fmt: skip
    return pictures
