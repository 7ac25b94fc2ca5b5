"""An evaluation as eval.py has left it in its folder, read back to be compared with another."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neo_model.data.columns import box_column, integer_column, number_column
from neo_model.evaluation import CocoEvaluator
from neo_model.utils import UserError

METRICS_FILE, DETECTIONS_FILE = "metrics.json", "detections.json"
ANEW = "evaluate its checkpoint again, or give that as compare="


@dataclass(frozen=True, kw_only=True)
class StoredEvaluation:
    """Figures and detections of a folder.

    Attributes:
        folder: where they are.
        per_class: by class, among others how many "images" and "boxes" it has.
        images, category_ids: int64 [n] of the detections.
        boxes_xywh: float64 [n, 4] in pixels.
        scores: float64 [n].
    """

    folder: Path
    per_class: dict[str, dict]
    images: np.ndarray
    category_ids: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray

    def check_same_objects(self, metrics: dict) -> None:
        """Refuse an evaluation of other images than those of these ``metrics``.

        Raises:
            UserError: a class has another number of objects.
        """
        for name, figures in metrics["per_class"].items():
            stored = self.per_class[name]
            for key in ("images", "boxes"):
                if stored.get(key) != figures[key]:
                    cause = f"was evaluated on other images: {name!r} has {stored.get(key)} {key}, here {figures[key]}"
                    raise UserError(f"compare={self.folder}", cause, ANEW)

    def fill(self, evaluator: CocoEvaluator, image_ids: np.ndarray, category_ids: list[int]) -> None:
        """Give the evaluator the detections of these images, in ascending order of id; others are left out.

        Raises:
            UserError: a detection is of no class, or not finite.
        """
        labels = {category_id: label for label, category_id in enumerate(category_ids)}
        order = np.argsort(self.images, kind="stable")
        unknown = set(np.unique(self.category_ids).tolist()) - labels.keys()
        if unknown:
            cause = f"holds detections of category id {min(unknown)}, which is no class here"
            raise UserError(self.folder / DETECTIONS_FILE, cause, ANEW)
        boxes_xyxy = self.boxes_xywh[order].copy()
        boxes_xyxy[:, 2:] += boxes_xyxy[:, :2]
        of_label = np.array([labels[category_id] for category_id in self.category_ids[order].tolist()], np.int64)
        bounds = [np.searchsorted(self.images[order], image_ids, side=side) for side in ("left", "right")]
        for image_id, low, high in zip(image_ids.tolist(), *bounds, strict=True):
            rows = slice(low, high)
            try:
                evaluator.update(image_id, boxes_xyxy[rows], self.scores[order][rows], of_label[rows])
            except FloatingPointError as error:
                raise UserError(self.folder / DETECTIONS_FILE, str(error), ANEW) from error


def read_evaluation(folder: Path, class_names: list[str]) -> StoredEvaluation:
    """Read what eval.py has written.

    Args:
        folder: of eval.py.
        class_names: the classes it must have.

    Raises:
        UserError: a file is missing or broken, or the classes are others.
    """
    metrics, detections = (_json(folder / name) for name in (METRICS_FILE, DETECTIONS_FILE))
    per_class = metrics.get("per_class") if isinstance(metrics, dict) else None
    if not (isinstance(per_class, dict) and all(isinstance(figures, dict) for figures in per_class.values())):
        raise UserError(folder / METRICS_FILE, 'has no "per_class"', ANEW)
    different = sorted(per_class.keys() ^ set(class_names))
    if different:
        cause = f"has {len(per_class)} classes, this evaluation {len(class_names)}, which differ in {different[:3]}"
        raise UserError(f"compare={folder}", cause, "compare evaluations of the same classes")
    path = folder / DETECTIONS_FILE
    if not (isinstance(detections, list) and all(isinstance(entry, dict) for entry in detections)):
        raise UserError(path, "is no list of detections", ANEW)
    images, category_ids = (integer_column(path, "detection", detections, key) for key in ("image_id", "category_id"))
    return StoredEvaluation(
        folder=folder,
        per_class=per_class,
        images=images,
        category_ids=category_ids,
        boxes_xywh=box_column(path, "detection", detections, "bbox"),
        scores=number_column(path, "detection", detections, "score", missing=np.nan),
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", ANEW) from None
    except (ValueError, RecursionError):
        raise UserError(path, "is not JSON", ANEW) from None
