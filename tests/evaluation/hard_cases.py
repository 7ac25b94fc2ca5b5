"""Small data sets full of what COCO's rules decide: ties, crowds, sizes on the border, too many detections."""

import contextlib
import copy
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Widths and heights whose products lie on 32^2 and 96^2 and beside them; without area; and round ones, which give
# equal IoUs and IoUs of exactly 0.5.
SIDES = (0, 1, 8, 16, 32, 64, 96, 128, 144, 288)
AREAS = (0.0, 1023.0, 1024.0, 1024.5, 9215.5, 9216.0, 9217.0, 1e10, 1.1e10, -1.0)
SCORES = (0.0, 0.25, 0.5, 0.75, 1.0)


def hard_case(seed: int) -> tuple[dict, dict[int, tuple]]:
    """Ground truth, and for each image with detections its (boxes_xyxy, scores, labels); label = category id // 3."""
    random = np.random.default_rng(seed)
    on_grid = seed % 2 == 0
    num_classes = (1, 2, 5, 40)[seed % 4]
    image_ids = random.permutation(1000)[: random.integers(1, 14)].tolist()
    annotations, detections = [], {}
    for image_id in image_ids:
        objects = _boxes_xywh(random, int(random.integers(0, 12)), on_grid)
        if len(objects) > 2:
            objects[1] = objects[0]
        classes = random.integers(0, num_classes, len(objects))
        for box_xywh, of_class in zip(objects, classes, strict=True):
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": int(of_class) * 3 + 1,
                "bbox": box_xywh.tolist(),
                "area": float(box_xywh[2] * box_xywh[3] if random.random() < 0.6 else random.choice(AREAS)),
                "iscrowd": int(random.random() < 0.15),
            })
        if random.random() < 0.8:
            detections[image_id] = _detections(random, objects, classes, num_classes, on_grid)
    categories = [{"id": 3 * k + 1, "name": f"class {k}"} for k in range(num_classes)]
    return {"images": [{"id": i} for i in image_ids], "annotations": annotations, "categories": categories}, detections


def _boxes_xywh(random: np.random.Generator, count: int, on_grid: bool) -> np.ndarray:
    if on_grid:
        return np.concatenate((random.integers(0, 8, (count, 2)) * 16.0, random.choice(SIDES, (count, 2))), axis=1)
    size = np.exp(random.uniform(0, 5.5, (count, 2)))
    return np.concatenate((random.uniform(0, 200, (count, 2)), size), axis=1)


def _detections(
    random: np.random.Generator, objects: np.ndarray, classes: np.ndarray, num_classes: int, on_grid: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Copies of objects, moved or not, and boxes anywhere; scores with many ties half of the time."""
    count = int(random.choice((0, 1, 5, 40, 300)))
    boxes, labels = _boxes_xywh(random, count, on_grid), random.integers(0, num_classes, count)
    if len(objects):
        source, is_near = random.integers(0, len(objects), count), random.random(count) < 0.7
        shift = 0.0 if random.random() < 0.5 else random.normal(0, 0.1, (count, 4)) * objects[source][:, [2, 3, 2, 3]]
        boxes = np.where(is_near[:, None], objects[source] + shift, boxes)
        labels = np.where(is_near & (random.random(count) < 0.9), classes[source], labels)
    boxes_xyxy = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)
    scores = random.random(count) if random.random() < 0.5 else random.choice(SCORES, count)
    dtype = np.float32 if random.random() < 0.5 else np.float64
    return boxes_xyxy.astype(dtype), scores.astype(dtype), labels


def results(detections: dict[int, tuple]) -> list[dict]:
    """The detections of `hard_case` as COCO results."""
    return [
        {"image_id": image_id, "category_id": int(label) * 3 + 1, "score": float(score),
         "bbox": [float(box[0]), float(box[1]), float(box[2]) - float(box[0]), float(box[3]) - float(box[1])]}
        for image_id, arrays in detections.items()
        for box, score, label in zip(*arrays, strict=True)
    ]  # fmt: skip


def by_pycocotools(ground_truth: dict, detections: dict[int, tuple]) -> tuple[np.ndarray, np.ndarray]:
    """The twelve figures of pycocotools' summary, and (AP, AP50) of each class [K, 2]; NaN where it says -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        found = results(detections)
        evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = np.stack((precision.mean(axis=(0, 1)), precision[0].mean(axis=0)), axis=1)
    return tuple(np.where(values < 0, np.nan, values) for values in (evaluation.stats, per_class))
