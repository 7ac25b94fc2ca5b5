"""Targets of several images as rectangles."""

import torch

from neo_model.ops.targets import pad_targets

CPU = torch.device("cpu")


def test_targets_fill_the_first_slots_and_the_rest_is_empty(make_targets):
    targets = make_targets(2, 0, 1)
    labels, boxes = pad_targets(targets, slots=3, empty_label=9, device=CPU)
    first, last = targets[0]["labels"].tolist(), targets[2]["labels"].tolist()
    assert labels.tolist() == [[*first, 9], [9, 9, 9], [*last, 9, 9]]
    assert boxes.shape == (3, 3, 4) and boxes.dtype == torch.float32
    assert boxes[0, :2].equal(targets[0]["boxes"]) and boxes[2, :1].equal(targets[2]["boxes"])
    assert not boxes[0, 2:].any() and not boxes[1].any()


def test_targets_beyond_the_slots_are_left_out(make_targets):
    targets = make_targets(5, 1)
    labels, boxes = pad_targets(targets, slots=2, device=CPU)
    assert labels[0].equal(targets[0]["labels"][:2]) and boxes[0].equal(targets[0]["boxes"][:2])


def test_no_targets_at_all_have_no_slots(make_targets):
    labels, boxes = pad_targets(make_targets(0, 0), slots=0, device=CPU)
    assert labels.shape == (2, 0) and boxes.shape == (2, 0, 4)
