"""Box arithmetic against values worked out by hand and against torchvision."""

import pytest
import torch
from torchvision.ops import batched_nms, box_iou, generalized_box_iou

from neo_model.ops.boxes import (
    cxcywh_to_xyxy,
    paired_iou_giou,
    pairwise_l1_giou,
    suppress_overlaps,
    xyxy_to_cxcywh,
)


def test_corners_and_centres_are_each_others_inverse():
    boxes_cxcywh = torch.tensor([[[0.5, 0.25, 0.5, 0.25]], [[10.0, 20.0, 4.0, 0.0]]])
    boxes_xyxy = cxcywh_to_xyxy(boxes_cxcywh)
    assert boxes_xyxy.tolist() == [[[0.25, 0.125, 0.75, 0.375]], [[8.0, 20.0, 12.0, 20.0]]]
    torch.testing.assert_close(xyxy_to_cxcywh(boxes_xyxy), boxes_cxcywh)


def test_giou_of_pairs_in_all_positions():
    box = torch.tensor([0.0, 0.0, 2.0, 2.0])
    others = torch.tensor([
        [0.0, 0.0, 2.0, 2.0],  # the same
        [1.0, 1.0, 3.0, 3.0],  # a quarter shared: 1 of 7, hull 9
        [3.0, 0.0, 4.0, 2.0],  # beside it: union 6, hull 8
        [0.5, 0.5, 1.5, 1.5],  # inside
        [2.0, 2.0, 2.0, 2.0],  # a point on the corner
    ])  # fmt: skip
    iou, giou = paired_iou_giou(box, others)
    assert iou.tolist() == pytest.approx([1, 1 / 7, 0, 1 / 4, 0])
    assert giou.tolist() == pytest.approx([1, 1 / 7 - 2 / 9, -2 / 8, 1 / 4, 0])
    points = cxcywh_to_xyxy(torch.tensor([[0.5, 0.5, 0.0, 0.0]], requires_grad=True))
    _, giou = paired_iou_giou(points, points)
    assert giou.item() == 0


def test_broadcast_pairs_are_torchvisions_matrix():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(count, 2, 2, generator=generator).sort(dim=1).values.flatten(1) for count in (7, 5))
    iou, giou = paired_iou_giou(first[:, None], second[None])
    torch.testing.assert_close(iou, box_iou(first, second))
    torch.testing.assert_close(giou, generalized_box_iou(first, second))


def test_the_gradient_of_giou_is_finite_where_boxes_have_no_area():
    boxes = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.2, 0.0], [0.1, 0.1, 0.2, 0.2]], requires_grad=True)
    target = cxcywh_to_xyxy(torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    _, giou = paired_iou_giou(cxcywh_to_xyxy(boxes), target)
    giou.sum().backward()
    assert giou.isfinite().all() and boxes.grad.isfinite().all()


def test_pairwise_figures_are_those_of_broadcast_pairs():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(3, 1, 6, 4, generator=generator, dtype=torch.float64)
    second = torch.rand(3, 2, 5, 4, generator=generator, dtype=torch.float64)
    # No area on either side, apart and in one place; and one inside the other.
    first[:, :, 0, 2:] = second[:, :, 0, 2:] = 0
    second[1, :, 0] = first[1, 0, 0].clone()
    second[2, :, 1] = first[2, 0, 1] * torch.tensor([1, 1, 0.5, 0.5])
    distance, giou = pairwise_l1_giou(first, second)
    pairs = first[..., :, None, :], second[..., None, :, :]
    _, expected = paired_iou_giou(*map(cxcywh_to_xyxy, pairs))
    assert expected[1, 0, 0, 0] == 0
    torch.testing.assert_close(giou, expected)
    torch.testing.assert_close(distance, (pairs[0] - pairs[1]).abs().sum(-1))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("num_boxes", [0, 1, 300])
def test_suppression_keeps_what_torchvisions_does(num_boxes, threshold):
    generator = torch.Generator().manual_seed(num_boxes)
    low = torch.rand(num_boxes, 2, generator=generator) * 60
    size = torch.rand(num_boxes, 2, generator=generator) * 40
    size[::17] = 0  # clipped to nothing at the image's edge
    boxes = torch.cat((low, low + size), dim=1).double()
    scores = torch.randint(100, (num_boxes,), generator=generator) / 100  # some are equal
    labels = torch.randint(3, (num_boxes,), generator=generator)
    found = suppress_overlaps(boxes, scores, labels, threshold)
    expected = batched_nms(boxes, scores.double(), labels, threshold)
    assert sorted(found.tolist()) == sorted(expected.tolist())
    assert torch.equal(scores[found], scores[expected])
    if num_boxes > 1:
        assert (len(found) == num_boxes) == (threshold == 1.0)


def test_suppression_leaves_what_is_not_finite_to_be_refused():
    boxes = torch.tensor([[0.0, 0, 9, 9], [float("nan"), 0, 9, 9], [0, 0, 9, 8.5], [0, 0, 9, 9]])
    scores = torch.tensor([0.5, 0.4, float("nan"), 0.3])
    assert sorted(suppress_overlaps(boxes, scores, torch.zeros(4), 0.99).tolist()) == [0, 1, 2]
