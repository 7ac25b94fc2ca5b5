"""COCO average precision and recall, by pycocotools, with its silent wrong answers made impossible.

pycocotools raises IndexError without detections, scores a NaN box as AP 1.0, takes annotation id 0 for "unmatched",
lets annotations with one id overwrite each other, and gives -1 for what is undefined. Here these are 0.0, an error,
fresh ids and NaN.
"""

import contextlib
import io
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# The twelve figures of COCO, in COCO's order.
SUMMARY_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
ALL_SIZES, SMALL, MEDIUM, LARGE = range(4)
IOU_50, IOU_75 = 0, 5


class CocoEvaluator:
    """Collects detections image by image and compares them with the ground truth.

    Args:
        ground_truth: COCO dictionary with ``images`` (id), ``annotations`` (image_id, category_id, bbox xywh in pixels;
            ``area`` and ``iscrowd`` are filled in where absent) and ``categories`` (id, name). It is not changed.
        classes_category_ids: the category id of each label, in label order; the same set as in the ground truth.

    Raises:
        ValueError: category ids differ from the ground truth's, or a ground-truth box is not finite.
    """

    def __init__(self, ground_truth: dict, classes_category_ids: list[int]) -> None:
        declared = {category["id"] for category in ground_truth["categories"]}
        if declared != set(classes_category_ids):
            different = sorted(declared.symmetric_difference(classes_category_ids))
            raise ValueError(f"category ids of the classes and of the ground truth differ in {different[:5]}")
        self._category_ids = list(classes_category_ids)
        self._ground_truth = {
            "images": [{"id": image["id"]} for image in ground_truth["images"]],
            "categories": [dict(category) for category in ground_truth["categories"]],
            "annotations": _clean_annotations(ground_truth["annotations"]),
        }
        self._image_ids = {image["id"] for image in ground_truth["images"]}
        self._detections: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def update(self, image_id: int, boxes_xyxy, scores, labels) -> None:
        """Add the detections of one image; an image without any is added with empty arrays.

        Args:
            image_id: an id of the ground truth, each once.
            boxes_xyxy: [n, 4] in pixels of the source image, torch or numpy.
            scores: [n].
            labels: [n], indices into ``classes_category_ids``.

        Raises:
            FloatingPointError: a box or a score is NaN or infinite.
            ValueError: the image is unknown or came before, shapes do not fit or a label is out of range.
        """
        image_id = int(image_id)
        boxes_xyxy = _as_array(boxes_xyxy, np.float64).reshape(-1, 4)
        scores = _as_array(scores, np.float64)
        labels = _as_array(labels, np.int64)
        if image_id not in self._image_ids:
            raise ValueError(f"image {image_id} is not in the ground truth")
        if image_id in self._detections:
            raise ValueError(f"image {image_id} was evaluated already")
        if not scores.shape == labels.shape == (len(boxes_xyxy),):
            raise ValueError(f"image {image_id}: {len(boxes_xyxy)} boxes, scores {scores.shape}, labels {labels.shape}")
        if not (np.isfinite(boxes_xyxy).all() and np.isfinite(scores).all()):
            raise FloatingPointError(f"image {image_id}: the model predicts NaN or infinite boxes or scores")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self._category_ids):
            raise ValueError(f"image {image_id}: labels must be 0 to {len(self._category_ids) - 1}")
        boxes_xywh = np.concatenate((boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]), axis=1)
        self._detections[image_id] = boxes_xywh, scores, labels

    def detections(self) -> list[dict]:
        """All detections so far as COCO results: image_id, category_id, bbox xywh in pixels, score."""
        return [
            {"image_id": image_id, "category_id": self._category_ids[label], "bbox": box_xywh, "score": score}
            for image_id, arrays in self._detections.items()
            for box_xywh, score, label in zip(*(array.tolist() for array in arrays), strict=True)
        ]

    def write_detections(self, path: str | Path) -> None:
        """Write the detections as a COCO results file."""
        Path(path).write_text(json.dumps(self.detections(), separators=(",", ":")))

    def compute(self, *, only_seen: bool = False) -> dict:
        """The twelve COCO figures and those of each class.

        Args:
            only_seen: leave out images that were never passed to ``update`` (a run on a part of the set); by default
                their objects count as missed.

        Returns:
            ``SUMMARY_KEYS`` in 0..1 and ``per_class``: name -> AP, AP50, images and boxes (crowds not counted). NaN
            where there is no ground truth; such classes stay out of the means.
        """
        image_ids = sorted(self._detections if only_seen else self._image_ids)
        truth = _index(self._ground_truth)
        evaluation = COCOeval(truth, _index(self._ground_truth | {"annotations": self._result_annotations()}), "bbox")
        evaluation.params.imgIds = image_ids
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        # Precision [IoU, recall, category, size, limit] and recall [IoU, category, size, limit]; -1 is "undefined".
        precision = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])
        recall = np.where(evaluation.eval["recall"] < 0, np.nan, evaluation.eval["recall"])
        figures = _summary(precision, recall)
        figures["per_class"] = self._per_class(precision, evaluation.params.catIds, image_ids)
        return figures

    def _result_annotations(self) -> list[dict]:
        """Detections in the form of annotations; ids from 1, because 0 means "unmatched" to pycocotools."""
        results = self.detections()
        for number, found in enumerate(results, start=1):
            found.update(id=number, area=found["bbox"][2] * found["bbox"][3], iscrowd=0)
        return results

    def _per_class(self, precision: np.ndarray, category_order: list[int], image_ids: list[int]) -> dict[str, dict]:
        """Figures by class name, in label order."""
        considered = set(image_ids)
        boxes, images = Counter(), {category_id: set() for category_id in self._category_ids}
        for annotation in self._ground_truth["annotations"]:
            if annotation["image_id"] in considered and not annotation["iscrowd"]:
                boxes[annotation["category_id"]] += 1
                images[annotation["category_id"]].add(annotation["image_id"])
        rows = {}
        for category_id, name in zip(self._category_ids, self._unique_names(), strict=True):
            of_class = precision[:, :, list(category_order).index(category_id), ALL_SIZES, -1]
            rows[name] = {
                "AP": _mean(of_class),
                "AP50": _mean(of_class[IOU_50]),
                "images": len(images[category_id]),
                "boxes": boxes[category_id],
            }
        return rows

    def _unique_names(self) -> list[str]:
        """Class names in label order; two classes of one name are told apart by their id."""
        names = {category["id"]: str(category["name"]) for category in self._ground_truth["categories"]}
        uses = Counter(names.values())
        return [names[i] if uses[names[i]] == 1 else f"{names[i]} (id {i})" for i in self._category_ids]


def metrics_json(metrics: dict) -> dict:
    """The same metrics in plain JSON types: NaN and infinity become None, numpy numbers become Python's."""
    plain = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            plain[key] = metrics_json(value)
        elif isinstance(value, int | np.integer):
            plain[key] = int(value)
        else:
            plain[key] = float(value) if math.isfinite(value) else None
    return plain


def _summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    figures = {
        "AP": precision[..., ALL_SIZES, -1],
        "AP50": precision[IOU_50, ..., ALL_SIZES, -1],
        "AP75": precision[IOU_75, ..., ALL_SIZES, -1],
        "APs": precision[..., SMALL, -1],
        "APm": precision[..., MEDIUM, -1],
        "APl": precision[..., LARGE, -1],
        "AR1": recall[..., ALL_SIZES, 0],
        "AR10": recall[..., ALL_SIZES, 1],
        "AR100": recall[..., ALL_SIZES, -1],
        "ARs": recall[..., SMALL, -1],
        "ARm": recall[..., MEDIUM, -1],
        "ARl": recall[..., LARGE, -1],
    }
    return {key: _mean(values) for key, values in figures.items()}


def _mean(values: np.ndarray) -> float:
    """Mean of the defined values; NaN when there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _as_array(values, dtype) -> np.ndarray:
    """Torch (any device) or numpy to numpy."""
    if isinstance(values, torch.Tensor):
        # bfloat16 has no numpy type.
        values = values.detach().cpu().to(torch.float64 if values.is_floating_point() else torch.int64).numpy()
    return np.asarray(values, dtype)


def _clean_annotations(annotations: list[dict]) -> list[dict]:
    """Only the fields that are evaluated, with ids 1, 2, ... in place of whatever the file says."""
    clean = []
    for number, annotation in enumerate(annotations, start=1):
        box_xywh = [float(value) for value in annotation["bbox"]]
        area = float(annotation.get("area", box_xywh[2] * box_xywh[3]))
        if not all(map(math.isfinite, (*box_xywh, area))):
            raise ValueError(f"annotation {annotation.get('id')}: its box or area is not finite")
        clean.append({
            "id": number,
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": box_xywh,
            "area": area,
            "iscrowd": int(annotation.get("iscrowd", 0)),
        })
    return clean


def _index(dataset: dict) -> COCO:
    """A pycocotools data set from a dictionary, without its prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    return coco
