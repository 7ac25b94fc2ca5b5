"""Denoising queries: noised copies of the targets, in groups that know nothing of each other."""

import pytest
import torch

from neo_model.models.denoising import attention_mask, build_denoising, denoising_layout
from neo_model.ops.boxes import cxcywh_to_xyxy

NUM_CLASSES = 50


def build(targets, *, num_queries=100, num_denoising=30, label_noise_ratio=0.0, box_noise_scale=0.0, seed=0):
    torch.manual_seed(seed)
    embedding = torch.nn.Embedding(NUM_CLASSES + 1, 4, padding_idx=NUM_CLASSES)
    noise = {"label_noise_ratio": label_noise_ratio, "box_noise_scale": box_noise_scale}
    queries = build_denoising(targets, embedding, num_queries=num_queries, num_denoising=num_denoising, **noise)
    return queries, embedding


def one_target_each(count: int, size: float = 0.2) -> list[dict[str, torch.Tensor]]:
    boxes = torch.tensor([[0.5, 0.5, size, size]])
    return [{"labels": torch.tensor([i % NUM_CLASSES]), "boxes": boxes} for i in range(count)]


@pytest.mark.parametrize(
    ("counts", "num_denoising", "num_queries", "expected"),
    [
        ([3, 1], 10, 20, (3, 3)),
        ([11], 10, 20, (11, 1)),
        ([1], 100, 300, (1, 100)),
        ([130], 100, 300, (130, 1)),
        ([700, 2], 100, 300, (300, 1)),
        ([0, 0], 100, 300, (1, 1)),
    ],
)
def test_slots_and_groups(counts, num_denoising, num_queries, expected):
    assert denoising_layout(counts, num_denoising, num_queries) == expected


def test_without_noise_every_query_is_its_target_and_empty_slots_are_zero(make_targets):
    targets = make_targets(3, 1, 0, num_classes=NUM_CLASSES)
    queries, embedding = build(targets, num_denoising=7)
    assert queries.num_groups == 2
    boxes = queries.boxes_unact_BR4.sigmoid()
    for image, target in enumerate(targets):
        count = len(target["labels"])
        # Two groups of three positives and three negatives.
        for start in (0, 3, 6, 9):
            torch.testing.assert_close(boxes[image, start : start + count], target["boxes"], atol=1e-4, rtol=0)
            torch.testing.assert_close(
                queries.content_BRD[image, start : start + count], embedding(target["labels"])
            )
            assert not queries.content_BRD[image, start + count : start + 3].any()
    assert [index.tolist() for index in queries.positive_index] == [[0, 1, 2, 6, 7, 8], [0, 6], []]
    assert [index.tolist() for index in queries.target_index] == [[0, 1, 2, 0, 1, 2], [0, 0], []]


@pytest.mark.parametrize("scale", [0.2, 0.49])  # at 0.5 and above opposite corners can pass each other
def test_corners_move_by_less_than_half_a_box_for_positives_and_more_for_negatives(scale):
    queries, _ = build(one_target_each(200), num_denoising=5, box_noise_scale=scale)
    corners = cxcywh_to_xyxy(queries.boxes_unact_BR4.sigmoid())
    # In units of scale * half the box; each group is one positive and one negative.
    moved = (corners - torch.tensor([0.4, 0.4, 0.6, 0.6])) / (0.1 * scale)
    positive, negative = moved[:, 0::2].abs(), moved[:, 1::2].abs()
    assert positive.max() <= 1.001 and negative.min() >= 0.999 and negative.max() <= 2.001
    for part, mean in ((positive, 0.5), (negative, 1.5)):
        assert part.mean() == pytest.approx(mean, abs=0.03)
    assert moved.mean() == pytest.approx(0, abs=0.1)


def test_noised_boxes_stay_inside_the_image():
    targets = [{"labels": torch.zeros(2, dtype=torch.int64), "boxes": torch.tensor([[0.05, 0.95, 0.1, 0.1]] * 2)}]
    queries, _ = build(targets, num_denoising=100, box_noise_scale=1.0)
    corners = cxcywh_to_xyxy(queries.boxes_unact_BR4.sigmoid())
    assert corners.min() >= -1e-4 and corners.max() <= 1 + 1e-4
    assert queries.boxes_unact_BR4.isfinite().all()


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_half_of_the_ratio_of_labels_is_drawn_anew(ratio):
    targets = one_target_each(200)
    queries, embedding = build(targets, num_denoising=10, label_noise_ratio=ratio)
    own = embedding(torch.cat([target["labels"] for target in targets]))[:, None]
    changed = (queries.content_BRD != own).any(-1).float().mean().item()
    assert changed == pytest.approx(0.5 * ratio * (1 - 1 / NUM_CLASSES), abs=0.03)


def test_label_noise_leaves_empty_slots_empty(make_targets):
    queries, _ = build(make_targets(8, 0, num_classes=NUM_CLASSES), label_noise_ratio=1.0, box_noise_scale=1.0)
    assert not queries.content_BRD[1].any()


def test_a_batch_without_targets_has_one_empty_slot(make_targets):
    queries, _ = build(make_targets(0, 0), label_noise_ratio=1.0, box_noise_scale=1.0)
    assert queries.content_BRD.shape == (2, 2, 4) and not queries.content_BRD.any()
    assert queries.boxes_unact_BR4.isfinite().all()
    assert [len(index) for index in queries.positive_index] == [0, 0]


def test_targets_beyond_the_queries_get_no_denoising_query(make_targets):
    queries, _ = build(make_targets(7, 2), num_queries=5, num_denoising=1)
    assert queries.content_BRD.shape[1] == 10
    assert [index.tolist() for index in queries.target_index] == [[0, 1, 2, 3, 4], [0, 1]]


def test_who_sees_whom():
    blocked = attention_mask(slots=1, groups=2, num_queries=2)
    yes, no = False, True
    assert blocked.tolist() == [
        [yes, yes, no, no, yes, yes],  # group 0 sees itself and the matching queries
        [yes, yes, no, no, yes, yes],
        [no, no, yes, yes, yes, yes],
        [no, no, yes, yes, yes, yes],
        [no, no, no, no, yes, yes],  # matching queries see matching queries
        [no, no, no, no, yes, yes],
    ]
