"""The figures from arrays against pycocotools' own, on data sets that its rules are hard on."""

import math
from collections import Counter

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from neo_model.evaluation import SUMMARY_KEYS, CocoEvaluator, matching
from tests.evaluation.hard_cases import by_pycocotools, hard_case

SEEDS = range(40)


def computed(ground_truth: dict, detections: dict[int, tuple], **options) -> dict:
    category_ids = [category["id"] for category in ground_truth["categories"]]
    evaluator = CocoEvaluator(ground_truth, category_ids, **options)
    for image_id, arrays in detections.items():
        evaluator.update(image_id, *arrays)
    return evaluator.compute()


def summary(metrics: dict) -> list[float]:
    return [metrics[key] for key in SUMMARY_KEYS]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_figure_equals_pycocotools(seed):
    ground_truth, detections = hard_case(seed)
    metrics = computed(ground_truth, detections)
    stats, per_class = by_pycocotools(ground_truth, detections)
    np.testing.assert_allclose(summary(metrics), stats, atol=1e-12)
    ours = [(figures["AP"], figures["AP50"]) for figures in metrics["per_class"].values()]
    np.testing.assert_allclose(ours, per_class, atol=1e-12)


def test_the_cases_hold_what_they_are_meant_to():
    seen = Counter()
    for seed in SEEDS:
        ground_truth, detections = hard_case(seed)
        annotations = ground_truth["annotations"]
        seen["crowd"] += any(a["iscrowd"] for a in annotations)
        seen["area on a border"] += any(a["area"] in (32**2, 96**2, 1e10) for a in annotations)
        seen["no area"] += any(a["bbox"][2] * a["bbox"][3] == 0 for a in annotations)
        seen["image without objects"] += len({a["image_id"] for a in annotations}) < len(ground_truth["images"])
        seen["image without detections"] += len(detections) < len(ground_truth["images"])
        seen["doubled object"] += len({(a["image_id"], *a["bbox"]) for a in annotations}) < len(annotations)
        for _, scores, labels in detections.values():
            seen["more than the limit"] += max(Counter(labels.tolist()).values(), default=0) > 100
            seen["tied scores"] += len(np.unique(scores)) < len(scores)
        for boxes_xyxy, scores, labels in detections.values():
            rows = np.column_stack((boxes_xyxy, scores, labels))
            seen["doubled detection"] += len(np.unique(rows, axis=0)) < len(rows)
    assert min(seen.values()) >= 5, seen
    assert len(seen) == 9


@pytest.mark.parametrize(("order", "found_objects"), [((0.0, 4.0), 1), ((4.0, 0.0), 2)])
def test_of_two_objects_with_equal_iou_the_later_one_is_taken(order, found_objects):
    # The better detection lies halfway between the objects; the other reaches the right one only.
    shared = {"image_id": 1, "category_id": 1, "area": 100.0, "iscrowd": 0}
    objects = [shared | {"id": n, "bbox": [x, 0.0, 10.0, 10.0]} for n, x in enumerate(order, start=1)]
    ground_truth = {"images": [{"id": 1}], "annotations": objects, "categories": [{"id": 1, "name": "class 0"}]}
    boxes = np.array([[2.0, 0.0, 12.0, 10.0], [6.0, 0.0, 16.0, 10.0]])
    detections = {1: (boxes, np.array([0.9, 0.5]), np.zeros(2))}
    metrics = computed(ground_truth, detections)
    # An IoU of 2/3 reaches the first four of the ten thresholds.
    assert metrics["AR100"] == pytest.approx(0.4 * found_objects / 2)
    np.testing.assert_allclose(summary(metrics), by_pycocotools(ground_truth, detections)[0], atol=1e-12)


def test_the_figures_do_not_depend_on_how_many_pairs_are_held_at_once(monkeypatch):
    cases = [hard_case(seed) for seed in range(12)]
    at_once = [summary(computed(*case)) for case in cases]
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", 7)
    np.testing.assert_array_equal([summary(computed(*case)) for case in cases], at_once)


def test_the_back_ends_agree_and_each_does_its_own_work(monkeypatch):
    case = hard_case(3)
    fast, reference = computed(*case), computed(*case, backend="pycocotools")
    assert 0 < fast["AP"] < 1
    np.testing.assert_allclose(summary(fast), summary(reference), atol=1e-12)
    assert fast["per_class"].keys() == reference["per_class"].keys()
    monkeypatch.setattr(COCOeval, "evaluate", lambda self: 1 / 0)
    computed(*case)
    with pytest.raises(ZeroDivisionError):
        computed(*case, backend="pycocotools")


@pytest.mark.parametrize("backend", ["fast", "pycocotools"])
def test_a_back_end_without_detections_or_images_needs_no_special_case(backend):
    ground_truth, _ = hard_case(2)
    assert computed(ground_truth, {}, backend=backend)["AP"] == 0.0
    empty = ground_truth | {"images": [], "annotations": []}
    assert math.isnan(computed(empty, {}, backend=backend)["AP"])


def test_boxes_too_small_for_their_area_to_be_a_number_match_nothing():
    # Width and height are positive and their product is 0: pycocotools divides 0 by 0 and takes the NaN for a match.
    tiny = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 1e-200, 1e-200], "area": 0.0, "iscrowd": 0}
    ground_truth = {"images": [{"id": 1}], "annotations": [tiny], "categories": [{"id": 1, "name": "class 0"}]}
    detections = {1: (np.array([tiny["bbox"]]), np.ones(1), np.zeros(1))}
    assert by_pycocotools(ground_truth, detections)[0][0] == pytest.approx(1.0)
    assert computed(ground_truth, detections)["AP"] == 0.0


def test_boxes_too_large_for_their_area_to_be_a_number_match_nothing():
    ground_truth, _ = hard_case(2)
    image_id = ground_truth["images"][0]["id"]
    assert computed(ground_truth, {image_id: (np.array([[0, 0, 1e200, 1e200]]), np.ones(1), np.zeros(1))})["AP"] == 0.0
