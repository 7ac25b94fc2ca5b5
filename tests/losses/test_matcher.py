"""The assignment is the cheapest one, at the costs of the paper."""

import itertools
import math

import pytest
import torch

from neo_model.losses import HungarianMatcher
from neo_model.ops.boxes import cxcywh_to_xyxy
from neo_model.ops.targets import pad_targets

CPU = torch.device("cpu")


def padded(targets):
    counts = [len(target["labels"]) for target in targets]
    return *pad_targets(targets, slots=max(counts), device=CPU), counts


def match(matcher, logits_BLQC, boxes_BLQ4, targets) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """For each layer and image its pairs' queries and targets, in the order of the queries."""
    pairs_3LK = matcher(logits_BLQC, boxes_BLQ4, *padded(targets))
    layers = []
    for image_K, query_K, target_K in pairs_3LK.unbind(1):
        assert image_K.tolist() == sorted(image_K.tolist())
        order = query_K.argsort()
        parts = [order[image_K[order] == image] for image in range(len(targets))]
        layers.append([(query_K[part], target_K[part]) for part in parts])
    return layers


def predictions(images: int, layers: int, queries: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, layers, queries, classes, generator=generator)
    size = torch.rand(images, layers, queries, 2, generator=generator) * 0.3 + 0.05
    centre = torch.rand(images, layers, queries, 2, generator=generator)
    return logits, torch.cat((centre, size), dim=-1)


def paper_cost(logit: float, box: list[float], target: list[float]) -> float:
    """2 focal + 5 L1 - 2 GIoU of one pair, written out in Python's own floats."""
    p = 1 / (1 + math.exp(-logit))
    focal = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8) - 0.75 * p**2 * -math.log(1 - p + 1e-8)
    distance = sum(abs(a - b) for a, b in zip(box, target, strict=True))
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (box, target)
    )
    overlap = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - overlap
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return 2 * focal + 5 * distance - 2 * (overlap / union - (hull - union) / hull)


@pytest.mark.parametrize("classes", [3, 8])  # as many as targets at most, and more
def test_costs_are_those_of_the_paper(make_targets, classes):
    logits, boxes = predictions(2, 2, 4, classes)
    targets = make_targets(3, 1, num_classes=classes)
    labels, target_boxes, counts = padded(targets)
    cost = HungarianMatcher().cost(logits, boxes, labels, target_boxes)
    assert cost.shape == (2, 2, 3, 4) and cost.dtype == torch.float32
    for image, layer, query in itertools.product(range(2), range(2), range(4)):
        for index in range(counts[image]):
            logit = logits[image, layer, query, targets[image]["labels"][index]].item()
            pair = boxes[image, layer, query].tolist(), targets[image]["boxes"][index].tolist()
            assert cost[image, layer, index, query].item() == pytest.approx(paper_cost(logit, *pair), abs=1e-4)


def test_no_other_assignment_is_cheaper(make_targets):
    logits, boxes = predictions(3, 2, 6, 3)
    targets = make_targets(3, 1, 4)
    matcher = HungarianMatcher()
    labels, target_boxes, counts = padded(targets)
    costs = matcher.cost(logits, boxes, labels, target_boxes)
    for layer, images in enumerate(match(matcher, logits, boxes, targets)):
        for image, (query, target) in enumerate(images):
            cost = costs[image, layer, : counts[image]]
            everything = itertools.permutations(range(6), counts[image])
            cheapest = min(sum(cost[t, q].item() for t, q in enumerate(order)) for order in everything)
            assert sorted(target.tolist()) == list(range(counts[image]))
            assert query.tolist() == sorted(set(query.tolist()))
            assert cost[target, query].sum().item() == pytest.approx(cheapest, abs=1e-5)


def test_a_query_on_each_target_is_found():
    targets = [{"labels": torch.tensor([2, 0]), "boxes": torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.7, 0.6, 0.3, 0.2]])}]
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.7, 0.6, 0.3, 0.2], [0.9, 0.1, 0.1, 0.1], [0.2, 0.2, 0.1, 0.1]])
    (((query, target),),) = match(HungarianMatcher(), torch.zeros(1, 1, 4, 3), boxes[None, None], targets)
    assert (query.tolist(), target.tolist()) == ([1, 3], [1, 0])


@pytest.mark.parametrize(("class_cost", "expected"), [(0.0, 0), (100.0, 1)])
def test_the_weights_decide_between_a_good_box_and_a_good_class(class_cost, expected):
    targets = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2]])
    logits = torch.tensor([[-3.0, -3.0], [-3.0, 3.0]])
    (((query, _),),) = match(HungarianMatcher(class_cost=class_cost), logits[None, None], boxes[None, None], targets)
    assert query.tolist() == [expected]


def test_images_without_targets_have_no_matches(make_targets):
    logits, boxes = predictions(2, 2, 4, 3)
    for images in match(HungarianMatcher(), logits, boxes, make_targets(0, 0)):
        assert [(len(query), len(target)) for query, target in images] == [(0, 0), (0, 0)]


def test_more_targets_than_queries_use_every_query_once(make_targets):
    logits, boxes = predictions(1, 1, 5, 3)
    (((query, target),),) = match(HungarianMatcher(), logits, boxes, make_targets(700))
    assert query.tolist() == [0, 1, 2, 3, 4]
    assert len(set(target.tolist())) == 5


def test_another_images_targets_change_nothing(make_targets):
    logits, boxes = predictions(2, 1, 6, 3)
    few, many = make_targets(2, 1), make_targets(2, 5)
    many[0] = few[0]
    first, second = (match(HungarianMatcher(), logits, boxes, targets)[0][0] for targets in (few, many))
    assert [index.tolist() for index in first] == [index.tolist() for index in second]


def test_matching_in_blocks_and_threads_is_the_same(make_targets, monkeypatch):
    logits, boxes = predictions(3, 2, 6, 3)
    at_once = match(HungarianMatcher(), logits, boxes, make_targets(4, 0, 9))
    monkeypatch.setattr("neo_model.losses.matcher.COSTS_IN_CACHE", 1)
    monkeypatch.setattr("neo_model.losses.matcher.PAIRS_WORTH_THREADS", 0)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert str(match(HungarianMatcher(), logits, boxes, make_targets(4, 0, 9))) == str(at_once)


def test_half_precision_predictions_are_matched_in_float32(make_targets):
    """Certain predictions have the log of 1 - p + 1e-8, which half precision turns into the log of 0."""
    logits, boxes = predictions(1, 1, 4, 3)
    logits = (logits.sign() * 40).half()
    (((query, _),),) = match(HungarianMatcher(), logits, boxes.half(), make_targets(2))
    assert len(query) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["logits", "boxes"])
@pytest.mark.parametrize("count", [0, 2])
def test_predictions_that_are_not_finite_are_an_error_with_and_without_targets(make_targets, value, where, count):
    logits, boxes = predictions(1, 1, 4, 3)
    targets = make_targets(count, num_classes=2)
    {"logits": logits, "boxes": boxes}[where][0, 0, 2, 2] = value  # of the logits, a class that no target has
    with pytest.raises(FloatingPointError, match="NaN"):
        match(HungarianMatcher(), logits, boxes, targets)


def test_finite_predictions_whose_cost_is_not_are_an_error(make_targets):
    logits, boxes = predictions(1, 1, 4, 3)
    boxes[..., 2] = 3e38
    with pytest.raises(FloatingPointError, match="costs"):
        match(HungarianMatcher(), logits, boxes, make_targets(2))
