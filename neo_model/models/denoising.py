"""Contrastive denoising queries (DINO, Zhang et al. 2022, section 3.3) that show the decoder noised ground truth.

Groups lie one after another; each is [positives | negatives] of as many slots as the image with the most targets
has. B batch, T slots, G groups, R = 2 * T * G denoising queries, Q matching queries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neo_model.ops.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from neo_model.ops.targets import pad_targets


@dataclass(frozen=True)
class DenoisingQueries:
    """What the decoder and the criterion need.

    Attributes:
        content_BRD: class embeddings of the noised labels.
        boxes_unact_BR4: logits of the noised cxcywh boxes.
        blocked: [R + Q, R + Q], True where a row must not see a column.
        positive_index: for each image the queries that should find a target, group after group, on the CPU [n * G].
        target_index: for each image the target of each of those, on the CPU [n * G].
        num_groups: G.
    """

    content_BRD: Tensor
    boxes_unact_BR4: Tensor
    blocked: Tensor
    positive_index: list[Tensor]
    target_index: list[Tensor]
    num_groups: int


def denoising_layout(counts: list[int], num_denoising: int, num_queries: int) -> tuple[int, int]:
    """Slots per half group T and groups G for images with ``counts`` targets.

    T is capped at ``num_queries``: the model can return no more detections than that, and 700 boxes in one image
    would otherwise make 1,400 queries. A batch without any target keeps one empty slot, so that it runs the same
    graph (every rank of a distributed run must touch the same parameters).
    """
    most = max(counts, default=0)
    if most == 0:
        return 1, 1
    slots = min(most, num_queries)
    return slots, max(1, num_denoising // slots)


def attention_mask(slots: int, groups: int, num_queries: int, device: torch.device | None = None) -> Tensor:
    """The mask [R + Q, R + Q], True = blocked: matching queries see no denoising one, groups do not see each other.

    Denoising queries do see the matching ones, as published.
    """
    owner = torch.arange(2 * slots * groups + num_queries, device=device) // (2 * slots)  # matching ones follow
    return (owner[None] != owner[:, None]) & (owner[None] < groups)


def build_denoising(
    targets: list[dict[str, Tensor]],
    class_embedding: nn.Embedding,
    *,
    num_queries: int,
    num_denoising: int,
    label_noise_ratio: float,
    box_noise_scale: float,
) -> DenoisingQueries:
    """Noised copies of the targets as decoder queries. Nothing here waits for the device.

    Args:
        targets: per image ``labels`` int64 [n] and ``boxes`` [n, 4] cxcywh in 0..1, on any device; targets beyond
            ``num_queries`` in one image get no denoising query.
        class_embedding: [C + 1, D]; its last row stands for "no target in this slot".
        num_queries: Q.
        num_denoising: queries aimed at; sets the number of groups.
        label_noise_ratio: half of it is the probability that a label is replaced by a random one.
        box_noise_scale: corners move by up to this share of half the box (positives), by one to two times (negatives).
    """
    device, num_classes = class_embedding.weight.device, class_embedding.num_embeddings - 1
    counts = [min(len(t["labels"]), num_queries) for t in targets]
    slots, groups = denoising_layout(counts, num_denoising, num_queries)
    labels, boxes = pad_targets(targets, slots=slots, empty_label=num_classes, device=device)
    labels, boxes = labels.repeat(1, 2 * groups), boxes.repeat(1, 2 * groups, 1)
    negative = torch.arange(2 * slots, device=device).ge(slots).repeat(groups)

    if label_noise_ratio > 0:
        flip = (torch.rand(labels.shape, device=device) < label_noise_ratio * 0.5) & (labels != num_classes)
        labels = torch.where(flip, torch.randint_like(labels, num_classes), labels)
    if box_noise_scale > 0:
        half_size = boxes[..., 2:].repeat(1, 1, 2) * 0.5
        sign = torch.randint_like(boxes, 2) * 2 - 1
        distance = torch.rand_like(boxes) + negative[None, :, None]
        corners_xyxy = cxcywh_to_xyxy(boxes) + sign * distance * half_size * box_noise_scale
        boxes = xyxy_to_cxcywh(corners_xyxy.clamp(0, 1))

    start_of_group = torch.arange(groups)[:, None] * (2 * slots)
    return DenoisingQueries(
        content_BRD=class_embedding(labels),
        boxes_unact_BR4=torch.logit(boxes, eps=1e-5),
        blocked=attention_mask(slots, groups, num_queries, device),
        positive_index=[(start_of_group + torch.arange(count)).flatten() for count in counts],
        target_index=[torch.arange(count).repeat(groups) for count in counts],
        num_groups=groups,
    )
