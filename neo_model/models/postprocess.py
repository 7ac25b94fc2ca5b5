"""From queries to detections."""

import torch
from torch import Tensor


def postprocess(outputs: dict[str, Tensor], *, num_top: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """The highest scores over query *and* class together, so one query can give two labels.

    Args:
        outputs: ``pred_logits`` [B, Q, C] and ``pred_boxes`` [B, Q, 4] cxcywh in 0..1.
        num_top: detections kept per image.

    Returns:
        labels int64 [B, K], boxes cxcywh in 0..1 [B, K, 4], scores [B, K] in descending order;
        K = min(num_top, Q * C). The score of a logit that is NaN or infinite is NaN, and such scores come first.
    """
    logits_BQC = outputs["pred_logits"].float()
    # A sigmoid would make 1 or 0 of an infinite logit, which then passed for a detection or for none.
    scores_BQC = logits_BQC.sigmoid().where(logits_BQC.isfinite(), torch.nan)
    num_classes = scores_BQC.shape[-1]
    scores, index = scores_BQC.flatten(1).topk(min(num_top, scores_BQC[0].numel()), dim=1)
    query = (index // num_classes)[..., None].expand(-1, -1, 4)
    return index % num_classes, outputs["pred_boxes"].float().gather(1, query), scores
