"""The evaluator against pycocotools itself, and against the inputs on which pycocotools is silently wrong."""

import contextlib
import copy
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from neo_model.evaluation import SUMMARY_KEYS, CocoEvaluator, metrics_json

CATEGORY_IDS = [3, 7, 18]


def random_case(seed: int = 0, num_images: int = 12) -> tuple[dict, dict[int, tuple]]:
    """Ground truth with crowds and an image without objects, and jittered, partly wrong detections of it."""
    random = np.random.default_rng(seed)
    images = [{"id": 100 + i, "width": 640, "height": 360} for i in range(num_images)]
    annotations, detections = [], {}
    for position, image in enumerate(images):
        count = 0 if position == 0 else int(random.integers(1, 12))
        size = np.exp(random.uniform(np.log(8), np.log(250), (count, 2)))
        low = random.uniform(0, 1, (count, 2)) * (np.array((640, 360)) - size)
        categories = random.integers(0, 3, count)
        for box_xywh, category in zip(np.concatenate((low, size), 1), categories, strict=True):
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": CATEGORY_IDS[category],
                "bbox": box_xywh.tolist(),
                "area": float(box_xywh[2] * box_xywh[3]),
                "iscrowd": int(random.random() < 0.1),
            })
        found = np.concatenate((low, low + size), 1) + random.normal(0, 0.06, (count, 4)) * size.repeat(2, 1)
        noise_low = random.uniform(0, 250, (4, 2))
        boxes = np.concatenate((found, np.concatenate((noise_low, noise_low + random.uniform(10, 80, (4, 2))), 1)))
        labels = np.concatenate((categories, random.integers(0, 3, 4)))
        detections[image["id"]] = boxes, random.uniform(0, 1, len(boxes)), labels
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, ("car", "bus", "dog"), strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def reference(ground_truth: dict, results: list[dict], category_ids=None) -> np.ndarray:
    """The twelve figures of pycocotools' own summary."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        if category_ids is not None:
            evaluation.params.catIds = category_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def coco_results(detections: dict[int, tuple]) -> list[dict]:
    return [
        {"image_id": image_id, "category_id": CATEGORY_IDS[label], "score": float(score),
         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
        for image_id, arrays in detections.items()
        for box, score, label in zip(*arrays, strict=True)
    ]  # fmt: skip


def evaluated(ground_truth: dict, detections: dict[int, tuple]) -> CocoEvaluator:
    evaluator = CocoEvaluator(ground_truth, CATEGORY_IDS)
    for image_id, (boxes, scores, labels) in detections.items():
        evaluator.update(image_id, boxes, scores, labels)
    return evaluator


def perfect(ground_truth: dict) -> dict[int, tuple]:
    """Detections that are the ground truth itself."""
    found = {}
    for image in ground_truth["images"]:
        own = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([a["bbox"] for a in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found[image["id"]] = boxes, np.ones(len(own)), [CATEGORY_IDS.index(a["category_id"]) for a in own]
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_figures_equal_pycocotools(seed, capsys):
    ground_truth, detections = random_case(seed)
    before = copy.deepcopy(ground_truth)
    metrics = evaluated(ground_truth, detections).compute()
    expected = reference(ground_truth, coco_results(detections))
    assert 0.1 < metrics["AP"] < 0.9
    np.testing.assert_allclose([metrics[key] for key in SUMMARY_KEYS], expected, atol=1e-12)
    assert ground_truth == before
    assert capsys.readouterr().out == ""


def test_class_figures_equal_pycocotools_on_that_class_alone():
    ground_truth, detections = random_case()
    per_class = evaluated(ground_truth, detections).compute()["per_class"]
    assert list(per_class) == ["car", "bus", "dog"]
    for category_id, figures in zip(CATEGORY_IDS, per_class.values(), strict=True):
        expected = reference(ground_truth, coco_results(detections), [category_id])
        np.testing.assert_allclose([figures["AP"], figures["AP50"]], expected[:2], atol=1e-12)
        single = [a for a in ground_truth["annotations"] if a["category_id"] == category_id and not a["iscrowd"]]
        assert figures["boxes"] == len(single)
        assert figures["images"] == len({a["image_id"] for a in single})


def test_torch_tensors_of_any_precision_are_taken():
    ground_truth, detections = random_case()
    as_torch = {
        image_id: (torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels))
        for image_id, (boxes, scores, labels) in detections.items()
    }
    assert evaluated(ground_truth, as_torch).compute() == evaluated(ground_truth, detections).compute()
    half = CocoEvaluator(ground_truth, CATEGORY_IDS)
    half.update(101, torch.ones(1, 4).bfloat16(), torch.ones(1).half(), torch.zeros(1, dtype=torch.int32))
    assert half.detections()[0]["score"] == 1.0


def test_label_order_need_not_be_the_order_of_category_ids():
    ground_truth, detections = random_case()
    evaluator = CocoEvaluator(ground_truth, CATEGORY_IDS[::-1])
    for image_id, (boxes, scores, labels) in detections.items():
        evaluator.update(image_id, boxes, scores, 2 - labels)
    metrics, expected = evaluator.compute(), evaluated(ground_truth, detections).compute()
    assert list(metrics["per_class"]) == ["dog", "bus", "car"]
    assert metrics == expected


@pytest.mark.parametrize("ids", ["from zero", "all the same", "none"])
def test_annotation_ids_cannot_lower_ap(ids):
    ground_truth, _ = random_case()
    for number, annotation in enumerate(ground_truth["annotations"]):
        annotation["iscrowd"] = 0
        annotation["id"] = number if ids == "from zero" else 5
        if ids == "none":
            del annotation["id"]
    metrics = evaluated(ground_truth, perfect(ground_truth)).compute()
    assert metrics["AP"] == pytest.approx(1.0)
    assert metrics["AR100"] == pytest.approx(1.0)


def test_class_without_ground_truth_is_undefined_and_left_out_of_the_mean():
    ground_truth, _ = random_case()
    ground_truth["annotations"] = [a for a in ground_truth["annotations"] if a["category_id"] != 7 and not a["iscrowd"]]
    detections = perfect(ground_truth)
    boxes, scores, labels = detections[101]
    detections[101] = np.append(boxes, [[0, 0, 9, 9]], 0), np.append(scores, 0.9), np.append(labels, 1)
    metrics = evaluated(ground_truth, detections).compute()
    assert math.isnan(metrics["per_class"]["bus"]["AP"])
    assert metrics["per_class"]["bus"]["boxes"] == 0
    assert metrics["AP"] == pytest.approx(1.0)


def test_undefined_figures_are_null_in_json():
    ground_truth, _ = random_case()
    ground_truth["annotations"] = []
    metrics = evaluated(ground_truth, {}).compute()
    plain = metrics_json(metrics)
    assert math.isnan(metrics["AP"]) and plain["AP"] is None
    assert json.loads(json.dumps(plain, allow_nan=False))["per_class"]["car"] == {
        "AP": None, "AP50": None, "images": 0, "boxes": 0,
    }  # fmt: skip


def test_missing_area_and_crowd_are_filled_in():
    ground_truth, detections = random_case()
    for annotation in ground_truth["annotations"]:
        annotation["iscrowd"] = 0
    bare = copy.deepcopy(ground_truth)
    for annotation in bare["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    assert evaluated(bare, detections).compute() == evaluated(ground_truth, detections).compute()


def test_images_never_seen_count_as_missed_unless_told_otherwise():
    ground_truth, _ = random_case()
    for annotation in ground_truth["annotations"]:
        annotation["iscrowd"] = 0
    part = dict(list(perfect(ground_truth).items())[:4])
    evaluator = evaluated(ground_truth, {})
    assert math.isnan(evaluator.compute(only_seen=True)["AP"])
    evaluator = evaluated(ground_truth, part)
    assert evaluator.compute()["AR100"] < 0.9
    seen = evaluator.compute(only_seen=True)
    assert seen["AP"] == pytest.approx(1.0)
    own = [a for a in ground_truth["annotations"] if a["image_id"] in part]
    assert sum(figures["boxes"] for figures in seen["per_class"].values()) == len(own)


def test_at_most_the_best_hundred_detections_of_an_image_count():
    ground_truth, _ = random_case()
    for annotation in ground_truth["annotations"]:
        annotation["iscrowd"] = 0
    detections = perfect(ground_truth)
    for image_id, (boxes, _, labels) in detections.items():
        false = np.tile([0.0, 0.0, 3.0, 3.0], (100 * 3, 1))
        detections[image_id] = (
            np.concatenate((boxes, false)),
            np.concatenate((np.full(len(boxes), 0.1), np.full(300, 0.9))),
            np.concatenate((labels, np.repeat(np.arange(3), 100))),
        )
    assert evaluated(ground_truth, detections).compute()["AR100"] == 0.0
    fewer = {image_id: tuple(array[:100] for array in arrays) for image_id, arrays in detections.items()}
    assert evaluated(ground_truth, fewer).compute()["AR100"] == pytest.approx(1.0)


def test_written_detections_are_coco_results_of_the_same_score(tmp_path):
    ground_truth, detections = random_case()
    evaluator = evaluated(ground_truth, detections)
    evaluator.write_detections(tmp_path / "detections.json")
    written = json.loads((tmp_path / "detections.json").read_text())
    assert set(written[0]) == {"image_id", "category_id", "bbox", "score"}
    np.testing.assert_allclose(reference(ground_truth, written)[0], evaluator.compute()["AP"], atol=1e-12)


def test_written_detections_are_the_same_as_those_in_memory_also_with_empty_images(tmp_path):
    ground_truth, detections = random_case()
    nothing = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
    for empty in ((), (100, 105, 111), detections):
        evaluator = evaluated(ground_truth, detections | dict.fromkeys(empty, nothing))
        evaluator.write_detections(tmp_path / "detections.json")
        assert json.loads((tmp_path / "detections.json").read_text()) == evaluator.detections()


def test_later_changes_of_the_arrays_change_nothing():
    ground_truth, detections = random_case()
    expected = evaluated(ground_truth, detections).compute()
    evaluator = evaluated(ground_truth, detections)
    for boxes, scores, labels in detections.values():
        boxes[:], scores[:], labels[:] = 0, 0, 0
    assert evaluator.compute() == expected


def test_calls_that_would_spoil_the_result_are_refused():
    ground_truth, _ = random_case()
    evaluator = CocoEvaluator(ground_truth, CATEGORY_IDS)
    one = np.ones((1, 4)), np.ones(1), np.zeros(1)
    evaluator.update(101, *one)
    with pytest.raises(ValueError, match="image 101 was evaluated already"):
        evaluator.update(101, *one)
    with pytest.raises(ValueError, match="image 5 is not in the ground truth"):
        evaluator.update(5, *one)
    with pytest.raises(ValueError, match="labels must be 0 to 2"):
        evaluator.update(102, one[0], one[1], [3])
    with pytest.raises(ValueError, match="1 boxes"):
        evaluator.update(102, one[0], np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match=r"differ in \[7, 18\]"):
        CocoEvaluator(ground_truth, [3])
    ground_truth["annotations"][2]["bbox"][0] = math.nan
    with pytest.raises(ValueError, match="annotation 3"):
        CocoEvaluator(ground_truth, CATEGORY_IDS)


def test_classes_of_one_name_are_kept_apart():
    ground_truth, detections = random_case()
    ground_truth["categories"][1]["name"] = "car"
    assert list(evaluated(ground_truth, detections).compute()["per_class"]) == ["car (id 3)", "car (id 7)", "dog"]


@pytest.mark.skipif("NEO_MODEL_TEST_DATA" not in os.environ, reason="NEO_MODEL_TEST_DATA names no folder of photos")
def test_ground_truth_of_real_photos_against_itself():
    path = Path(os.environ["NEO_MODEL_TEST_DATA"]) / "bccd" / "instances_val.json"
    ground_truth = json.loads(path.read_text())
    category_ids = [category["id"] for category in ground_truth["categories"]]
    evaluator = CocoEvaluator(ground_truth, category_ids)
    results = []
    for image in ground_truth["images"]:
        own = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([a["bbox"] for a in own], float).reshape(-1, 4) + [2, 1, -1, 2]
        for box_xywh, annotation in zip(boxes.tolist(), own, strict=True):
            category_id = annotation["category_id"]
            results.append({"image_id": image["id"], "category_id": category_id, "bbox": box_xywh, "score": 0.5})
        labels = [category_ids.index(a["category_id"]) for a in own]
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
        evaluator.update(image["id"], corners, np.full(len(own), 0.5), labels)
    metrics = evaluator.compute()
    expected = [math.nan if value < 0 else value for value in reference(ground_truth, results)]
    np.testing.assert_allclose([metrics[key] for key in SUMMARY_KEYS], expected, atol=1e-9)
