"""COCO average precision and recall, with the silent wrong answers of its tools made impossible.

pycocotools raises IndexError without detections, scores a NaN box as AP 1.0, takes annotation id 0 for "unmatched",
lets annotations with one id overwrite each other, and gives -1 for what is undefined. Here these are 0.0, an error,
no ids at all and NaN.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from neo_model.evaluation import average_precision, pycocotools_backend
from neo_model.evaluation.matching import FoundArrays, TruthArrays
from neo_model.utils.files import write_whole

# The twelve figures of COCO, in COCO's order.
SUMMARY_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
ALL_SIZES, SMALL, MEDIUM, LARGE = range(4)
IOU_50, IOU_75 = 0, 5
BACKENDS = {
    "fast": average_precision.precision_and_recall,
    "pycocotools": pycocotools_backend.precision_and_recall,
}


@dataclass(frozen=True, kw_only=True)
class EvaluatedArrays:
    """What there is and what was found.

    Attributes:
        image_ids: int64 [I], ascending; arrays count images by their position here.
        class_names: by class, in order of category id, each another one.
        truth, found: the objects and the detections.
    """

    image_ids: np.ndarray
    class_names: list[str]
    truth: TruthArrays
    found: FoundArrays


class CocoEvaluator:
    """Collects detections image by image and compares them with the ground truth.

    Args:
        ground_truth: COCO dictionary with ``images`` (id), ``annotations`` (image_id, category_id, bbox xywh in pixels;
            ``area`` and ``iscrowd`` are filled in where absent) and ``categories`` (id, name). It is not changed.
        classes_category_ids: the category id of each label, in label order; the same set as in the ground truth.
        backend: "fast" computes from arrays; "pycocotools" has that package do it, to the same figures.

    Raises:
        ValueError: category ids differ from the ground truth's, or a ground-truth box is not finite.
    """

    def __init__(
        self,
        ground_truth: dict,
        classes_category_ids: list[int],
        *,
        backend: Literal["fast", "pycocotools"] = "fast",
    ) -> None:
        declared = {category["id"] for category in ground_truth["categories"]}
        if declared != set(classes_category_ids):
            different = sorted(declared.symmetric_difference(classes_category_ids))
            raise ValueError(f"category ids of the classes and of the ground truth differ in {different[:5]}")
        self._precision_and_recall = BACKENDS[backend]
        self._category_ids = np.array(classes_category_ids, np.int64)
        self._names = {category["id"]: str(category["name"]) for category in ground_truth["categories"]}
        # Classes in the order of their ids, as in pycocotools; in which order labels come then changes no sum.
        sorted_category_ids = np.sort(self._category_ids)
        self._class_of_label = np.searchsorted(sorted_category_ids, self._category_ids)
        self._image_ids = np.unique(np.array([image["id"] for image in ground_truth["images"]], np.int64))
        self._known_images = set(self._image_ids.tolist())
        self._truth = _read_annotations(ground_truth["annotations"], sorted_category_ids)
        self._detections: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._precision: np.ndarray | None = None

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
        boxes_xyxy = _own_floats(boxes_xyxy).reshape(-1, 4)
        scores = _own_floats(scores)
        labels = _as_numpy(labels).astype(np.int64)
        if image_id not in self._known_images:
            raise ValueError(f"image {image_id} is not in the ground truth")
        if image_id in self._detections:
            raise ValueError(f"image {image_id} was evaluated already")
        if not scores.shape == labels.shape == (len(boxes_xyxy),):
            raise ValueError(f"image {image_id}: {len(boxes_xyxy)} boxes, scores {scores.shape}, labels {labels.shape}")
        if not (np.isfinite(boxes_xyxy).all() and np.isfinite(scores).all()):
            raise FloatingPointError(f"image {image_id}: the model predicts NaN or infinite boxes or scores")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self._category_ids):
            raise ValueError(f"image {image_id}: labels must be 0 to {len(self._category_ids) - 1}")
        self._detections[image_id] = boxes_xyxy, scores, labels.astype(np.int32)

    def detections(self) -> list[dict]:
        """All detections so far as COCO results: image_id, category_id, bbox xywh in pixels, score."""
        return [found for image_id in self._detections for found in self._detections_of(image_id)]

    def write_detections(self, path: str | Path) -> None:
        """Write the detections as a COCO results file, image by image, which is there whole or not at all.

        Raises:
            UserError: the disk refuses.
        """
        write_whole(Path(path), self._detections_json())

    def _detections_json(self) -> Iterator[str]:
        separator = "["
        for image_id, (_, scores, _) in self._detections.items():
            if len(scores):
                yield separator + json.dumps(self._detections_of(image_id), separators=(",", ":"))[1:-1]
                separator = ","
        yield "[]" if separator == "[" else "]"

    def compute(self, *, only_seen: bool = False) -> dict:
        """The twelve COCO figures and those of each class.

        Args:
            only_seen: leave out images that were never passed to ``update`` (a run on a part of the set); by default
                their objects count as missed.

        Returns:
            ``SUMMARY_KEYS`` in 0..1 and ``per_class``: name -> AP, AP50, images and boxes (crowds not counted). NaN
            where there is no ground truth; such classes stay out of the means.
        """
        image_ids = self._evaluated(only_seen=only_seen)
        truth = self._truth_of(image_ids)
        precision, recall = self._precision_and_recall(
            truth, self._found_in(image_ids), num_images=len(image_ids), num_classes=len(self._category_ids)
        )
        self._precision = precision
        return _summary(precision, recall) | {"per_class": self._per_class(precision, truth)}

    def precision_at_iou_50(self) -> dict[str, np.ndarray]:
        """Precision at recall 0, 0.01, ... 1 [101] of the last `compute`, by class; those without objects are left out.

        Raises:
            ValueError: nothing has been computed.
        """
        if self._precision is None:
            raise ValueError("compute comes first")
        columns = {
            name: self._precision[IOU_50, :, k, ALL_SIZES]
            for k, name in zip(self._class_of_label, self.class_names(), strict=True)
        }
        return {name: column for name, column in columns.items() if not np.isnan(column).any()}

    def arrays(self, *, only_seen: bool = False) -> EvaluatedArrays:
        """What `compute` compares; ``only_seen`` as there."""
        image_ids = self._evaluated(only_seen=only_seen)
        names = self.class_names()
        return EvaluatedArrays(
            image_ids=image_ids,
            class_names=[names[label] for label in np.argsort(self._class_of_label)],
            truth=self._truth_of(image_ids),
            found=self._found_in(image_ids),
        )

    def _evaluated(self, *, only_seen: bool) -> np.ndarray:
        return np.array(sorted(self._detections), np.int64) if only_seen else self._image_ids

    def _detections_of(self, image_id: int) -> list[dict]:
        boxes_xyxy, scores, labels = self._detections[image_id]
        columns = _to_xywh(boxes_xyxy), scores, self._category_ids[labels]
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box_xywh, "score": score}
            for box_xywh, score, category_id in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def _truth_of(self, image_ids: np.ndarray) -> TruthArrays:
        """The objects in these sorted images, which they then count from 0."""
        truth = self._truth.rows(np.isin(self._truth.images, image_ids))
        return replace(truth, images=np.searchsorted(image_ids, truth.images))

    def _found_in(self, image_ids: np.ndarray) -> FoundArrays:
        """The detections in these sorted images, which they then count from 0."""
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
        # One image after the other, so that of equal scores the smaller image comes first.
        seen = [image_id for image_id in image_ids.tolist() if image_id in self._detections]
        parts = [self._detections[image_id] for image_id in seen]
        boxes_xyxy, scores, labels = (np.concatenate(columns) for columns in zip(nothing, *parts, strict=True))
        return FoundArrays(
            images=np.repeat(np.searchsorted(image_ids, seen), [len(scores) for _, scores, _ in parts]),
            classes=self._class_of_label[labels],
            boxes_xywh=_to_xywh(boxes_xyxy),
            scores=scores,
        )

    def _per_class(self, precision: np.ndarray, truth: TruthArrays) -> dict[str, dict]:
        """Figures by class name, in label order."""
        num_classes = len(self._category_ids)
        single = truth.rows(~truth.crowd)
        boxes = np.bincount(single.classes, minlength=num_classes)
        classes_of_images, _ = np.unique(np.stack((single.classes, single.images)), axis=1)
        images = np.bincount(classes_of_images, minlength=num_classes)
        return {
            name: {
                "AP": _mean(precision[:, :, k, ALL_SIZES]),
                "AP50": _mean(precision[IOU_50, :, k, ALL_SIZES]),
                "images": int(images[k]),
                "boxes": int(boxes[k]),
            }
            for k, name in zip(self._class_of_label, self.class_names(), strict=True)
        }

    def class_names(self) -> list[str]:
        """Class names in label order; two classes of one name are told apart by their id."""
        uses = Counter(self._names.values())
        names = [(i, self._names[i]) for i in self._category_ids.tolist()]
        return [name if uses[name] == 1 else f"{name} (id {i})" for i, name in names]


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
        "AP": precision[..., ALL_SIZES],
        "AP50": precision[IOU_50, ..., ALL_SIZES],
        "AP75": precision[IOU_75, ..., ALL_SIZES],
        "APs": precision[..., SMALL],
        "APm": precision[..., MEDIUM],
        "APl": precision[..., LARGE],
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


def _as_numpy(values) -> np.ndarray:
    """Torch (any device) or numpy to numpy."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # bfloat16 has no numpy type.
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _own_floats(values) -> np.ndarray:
    """A copy in float32 if that is what they are, which takes half the memory, and in float64 otherwise."""
    values = _as_numpy(values)
    return values.astype(np.float32 if values.dtype == np.float32 else np.float64)


def _to_xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    """float64 [n, 4]: sizes of float32 corners are not themselves float32."""
    boxes = boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _read_annotations(annotations: list[dict], category_ids: np.ndarray) -> TruthArrays:
    """The objects of these sorted categories, with their images' ids in place of positions.

    The annotations' own ids are not read: whatever they are, they cannot change a figure.
    """
    boxes_xywh = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
    with np.errstate(over="ignore"):
        box_areas = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    pairs = zip(annotations, box_areas.tolist(), strict=True)
    areas = np.array([annotation.get("area", box_area) for annotation, box_area in pairs], np.float64)
    broken = np.flatnonzero(~(np.isfinite(boxes_xywh).all(axis=1) & np.isfinite(areas)))
    if len(broken):
        raise ValueError(f"annotation {annotations[broken[0]].get('id')}: its box or area is not finite")
    of_category = np.array([annotation["category_id"] for annotation in annotations], np.int64)
    truth = TruthArrays(
        images=np.array([annotation["image_id"] for annotation in annotations], np.int64),
        classes=np.searchsorted(category_ids, of_category),
        boxes_xywh=boxes_xywh,
        areas=areas,
        crowd=np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool),
    )
    return truth.rows(np.isin(of_category, category_ids))
