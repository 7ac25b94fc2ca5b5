"""Kinds of error and what they cost: hand-made cases, and TIDE's own program."""

import dataclasses

import numpy as np
import pytest

from neo_model.benchmark.coco_case import make_coco_case
from neo_model.evaluation import CocoEvaluator
from neo_model.evaluation.error_types import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    IGNORED,
    LOCALISATION,
    RIGHT,
    error_types,
)

BOX = (10.0, 10.0, 100.0, 100.0)


def evaluated(objects: list[tuple], detections: list[tuple], num_classes: int = 2):
    """Objects (class, box xywh[, crowd]) and detections (class, box xywh, score) of one image, judged."""
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": of_class, "bbox": list(box), "area": box[2] * box[3],
         "iscrowd": int(bool(crowd))}
        for i, (of_class, box, *crowd) in enumerate(objects)
    ]  # fmt: skip
    categories = [{"id": k, "name": f"class {k}"} for k in range(num_classes)]
    truth = {"images": [{"id": 1}], "annotations": annotations, "categories": categories}
    evaluator = CocoEvaluator(truth, list(range(num_classes)))
    boxes = np.array([box for _, box, _ in detections], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    evaluator.update(1, boxes, np.array([score for *_, score in detections]), np.array([k for k, *_ in detections], int))
    arrays = evaluator.arrays()
    return error_types(arrays.truth, arrays.found, num_classes=num_classes)


@pytest.mark.parametrize(
    "kind, detection",
    [
        (RIGHT, (0, BOX, 0.9)),
        (CLASSIFICATION, (1, BOX, 0.9)),
        (LOCALISATION, (0, (60.0, 10.0, 100.0, 100.0), 0.9)),  # IoU 1/3
        (BOTH, (1, (60.0, 10.0, 100.0, 100.0), 0.9)),
        (BACKGROUND, (0, (200.0, 200.0, 50.0, 50.0), 0.9)),
        (BACKGROUND, (1, (105.0, 10.0, 100.0, 100.0), 0.9)),  # IoU 0.03
    ],
)
def test_a_detection_is_of_the_kind_that_its_place_and_class_make_it(kind, detection):
    errors = evaluated([(0, BOX)], [detection])
    assert errors.kinds.tolist() == [kind]
    assert errors.objects.tolist() == [-1 if kind == BACKGROUND else 0]
    # What another class or place would mend is not missed.
    assert errors.missed.tolist() == [kind in (BOTH, BACKGROUND)]


def test_the_lower_scored_of_two_is_a_duplicate_and_one_on_a_crowd_is_nothing():
    errors = evaluated([(0, BOX), (1, (300.0, 300.0, 90.0, 90.0), True)],
                       [(0, BOX, 0.5), (0, BOX, 0.9), (1, (310.0, 310.0, 20.0, 20.0), 0.8)])  # fmt: skip
    assert errors.kinds.tolist() == [RIGHT, DUPLICATE, IGNORED]
    assert not errors.missed.any()
    assert errors.ap50 == pytest.approx(1.0) and sum(errors.costs.values()) == pytest.approx(0.0)


def test_costs_are_what_mending_brings():
    """Two objects of a class: one found by the second detection, the first detection lies on nothing."""
    away = (300.0, 300.0, 50.0, 50.0)
    errors = evaluated([(0, BOX), (0, (10.0, 200.0, 100.0, 100.0))], [(0, away, 0.9), (0, BOX, 0.8)], num_classes=1)
    reached = 51 / 101  # points of recall up to one half
    assert errors.ap50 == pytest.approx(0.5 * reached)
    assert errors.costs["background"] == pytest.approx(0.5 * reached)
    assert errors.costs["missed"] == pytest.approx(0.5 - 0.5 * reached)
    assert errors.costs["duplicate"] == errors.costs["classification"] == 0.0


@pytest.mark.parametrize("objects, detections", [([(0, BOX)], []), ([], [(0, BOX, 0.5)]), ([], [])])
def test_nothing_found_and_nothing_there(objects, detections):
    errors = evaluated(objects, detections)
    assert errors.missed.tolist() == [True] * len(objects)
    assert errors.costs["missed"] == (1.0 if objects else 0.0)
    assert errors.kinds.tolist() == [BACKGROUND] * len(detections)


def test_figures_are_those_of_tide():
    """What tidecv 1.0.1 says of the same detections, at its default thresholds."""
    case = make_coco_case(num_images=100, num_detections=40, num_classes=5)
    case = dataclasses.replace(case, crowd=np.zeros_like(case.crowd))
    evaluator = CocoEvaluator(case.ground_truth(), list(range(1, 6)))
    for i in range(100):
        evaluator.update(i + 1, case.boxes_xyxy[i], case.scores[i], case.labels[i])
    arrays = evaluator.arrays()
    errors = error_types(arrays.truth, arrays.found, num_classes=5)
    assert errors.ap50 == pytest.approx(0.38859698267081974, abs=1e-12)
    assert errors.ap50 == pytest.approx(evaluator.compute()["AP50"], abs=1e-12)
    assert errors.costs == pytest.approx(
        {
            "classification": 0.016738017959838558,
            "localisation": 0.06057760124749436,
            "both": 0.002067216691757261,
            "duplicate": 0.06830422736007989,
            "background": 0.035240889824225476,
            "missed": 0.11555375101357193,
        },
        abs=2e-4,  # tidecv's points of recall are COCO's but for the last bit, which decides some
    )
    kinds = (CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND)
    assert [np.count_nonzero(errors.kinds == kind) for kind in kinds] == [123, 575, 185, 533, 2063]
    assert np.count_nonzero(errors.missed) == 258
