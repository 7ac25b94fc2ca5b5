"""AP by size and place, calibration and confusion."""

import math

import numpy as np
import pytest

from neo_model.evaluation import CocoEvaluator
from neo_model.evaluation.breakdown import SIZE_EDGES, confusion, curves, scores
from neo_model.evaluation.error_types import error_types

SIZES_WH = np.array([[1000, 1000]])
SMALL_AT_CORNER, LARGE_AT_CENTRE = (0.0, 0.0, 20.0, 20.0), (400.0, 400.0, 200.0, 200.0)


def arrays_of(objects: list[tuple], detections: list[tuple]):
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": k, "bbox": list(box), "iscrowd": 0}
        for i, (k, box) in enumerate(objects)
    ]
    truth = {"images": [{"id": 1}], "annotations": annotations, "categories": [{"id": k, "name": f"{k}"} for k in (0, 1)]}
    evaluator = CocoEvaluator(truth, [0, 1])
    boxes = np.array([box for _, box, _ in detections])
    boxes[:, 2:] += boxes[:, :2]
    evaluator.update(1, boxes, np.array([score for *_, score in detections]), np.array([k for k, *_ in detections]))
    return evaluator.arrays()


def test_each_bin_is_scored_on_its_own_objects():
    """The large object in the middle is found, the small one in the corner is not; a small false alarm costs the small."""
    false_alarm = (0, (30.0, 30.0, 20.0, 20.0), 0.95)
    found = curves(arrays_of([(0, SMALL_AT_CORNER), (0, LARGE_AT_CENTRE)], [(0, LARGE_AT_CENTRE, 0.9), false_alarm]), SIZES_WH)
    small, large = SIZE_EDGES.index(16.0), SIZE_EDGES.index(192.0)
    assert found.by_size[small].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert found.by_size[large].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0])
    assert all(math.isnan(found.by_size[b, 0]) and found.by_size[b, 3] == 0 for b in range(7) if b not in (small, large))
    assert found.by_distance[0].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0])
    assert found.by_distance[-1].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_calibration_and_threshold():
    objects = [(0, (100.0 * i, 0.0, 50.0, 50.0)) for i in range(4)]
    right = [(0, box, 0.85) for _, box in objects[:3]]
    wrong = [(0, (100.0 * i, 500.0, 50.0, 50.0), 0.25) for i in range(4)]
    arrays = arrays_of(objects, right + wrong)
    told = scores(arrays, error_types(arrays.truth, arrays.found, num_classes=2))
    assert told.bins[8].tolist() == pytest.approx([3, 0.85, 1.0])
    assert told.bins[2].tolist() == pytest.approx([4, 0.25, 0.0])
    assert told.calibration_error == pytest.approx((3 * 0.15 + 4 * 0.25) / 7)
    assert told.best == 0.26  # the least that leaves the wrong ones out
    assert told.f1[26] == pytest.approx(2 * 3 / (3 + 4)) and told.recall[0] == 0.75 and told.precision[0] == 3 / 7


def test_confusion_counts_every_object_and_detection_once():
    moved = (430.0, 400.0, 200.0, 200.0)
    arrays = arrays_of(
        [(0, SMALL_AT_CORNER), (0, LARGE_AT_CENTRE)],
        [(1, LARGE_AT_CENTRE, 0.9), (0, moved, 0.8), (1, (700.0, 0.0, 50.0, 50.0), 0.7), (0, SMALL_AT_CORNER, 0.1)],
    )
    assert confusion(arrays, 0.5).tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert confusion(arrays, 0.05).tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 0]]
