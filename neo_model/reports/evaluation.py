"""An evaluation as one page that asks for nothing else: figures, curves, errors, and the pictures behind them."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neo_model.evaluation import SUMMARY_KEYS
from neo_model.evaluation.breakdown import (
    DISTANCE_EDGES,
    SCORE_BINS,
    SIZE_EDGES,
    Curves,
    Scores,
    confusion,
    curves,
    scores,
)
from neo_model.evaluation.coco import EvaluatedArrays
from neo_model.evaluation.error_types import KINDS, MISSED, RIGHT, ErrorTypes, error_types
from neo_model.evaluation.tables import MEANING
from neo_model.reports import findings
from neo_model.reports.gallery import Gallery, ImageStatistics, image_statistics
from neo_model.reports.page import write_page
from neo_model.reports.steps import next_step, step_bar

REPORT_FILE = "report.html"
IOU_50, IOU_75 = 0, 5
MOST_CONFUSIONS = 15
MOST_IMAGES = 200  # in the table of differences
ERROR_MEANING = {
    "classification": "right place, wrong class",
    "localisation": "right class, place not right enough (IoU 0.1 to 0.5)",
    "both": "wrong class, and place not right enough",
    "duplicate": "an object that a better detection has found already",
    "background": "nothing is there (IoU under 0.1)",
    "missed": "an object that nothing found, not even with a wrong class or place",
}


@dataclass(frozen=True, kw_only=True)
class EvaluatedImages:
    """The files behind an evaluation, in ascending order of image id.

    Attributes:
        ids: int64 [I].
        paths: where each image is.
        sizes_wh: int [I, 2], width and height in pixels.
    """

    ids: np.ndarray
    paths: list[Path]
    sizes_wh: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything that a page says about one set of detections."""

    name: str
    metrics: dict
    arrays: EvaluatedArrays
    errors: ErrorTypes
    curves: Curves
    scores: Scores
    images: ImageStatistics

    @property
    def threshold(self) -> float:
        """The score at which detections are shown and counted one by one: that of the highest F1."""
        return self.scores.best


def analyse(name: str, metrics: dict, arrays: EvaluatedArrays, sizes_wh: np.ndarray) -> Analysis:
    """Look into the detections from every side.

    Args:
        name: what the page calls them.
        metrics: the figures of ``CocoEvaluator.compute``.
        arrays: what there is and what was found.
        sizes_wh: [I, 2] of the images in pixels.
    """
    with step_bar(2, f"{name}: errors and what they cost") as steps:
        errors = error_types(arrays.truth, arrays.found, num_classes=len(arrays.class_names))
        errors = next_step(steps, f"{name}: curves, AP by size and by place", errors)
        of_scores = scores(arrays, errors)
        return Analysis(
            name=name,
            metrics=metrics,
            arrays=arrays,
            errors=errors,
            curves=curves(arrays, sizes_wh),
            scores=of_scores,
            images=image_statistics(arrays, errors, of_scores.best),
        )


def write_evaluation_report(
    path: Path,
    *,
    title: str,
    facts: dict[str, str],
    images: EvaluatedImages,
    own: Analysis,
    other: Analysis | None = None,
) -> None:
    """Write the page.

    Args:
        path: the file.
        title: its head.
        facts: what was evaluated on what, by label.
        images: the files of ``own.arrays``.
        own: the evaluation.
        other: another one of the same images, to tell the difference to.
    """
    threshold = own.threshold
    table = confusion(own.arrays, threshold)
    names = own.arrays.class_names
    gallery = Gallery(images.paths, images.sizes_wh, own, other)
    content = {
        "name": own.name,
        "other": other and other.name,
        "threshold": threshold,
        "other_threshold": other and other.threshold,
        "class_names": names,
        "summary": _summary(own, other),
        "classes": class_rows(own, other),
        "curves": _curves(own.curves),
        "errors": error_rows(own, other),
        "confusion": table.tolist(),
        "confusions": confusions(table, names),
        "sizes": _bins(own.curves.by_size, other and other.curves.by_size, SIZE_EDGES),
        "distances": _bins(own.curves.by_distance, other and other.curves.by_distance, DISTANCE_EDGES),
        "scores": _scores(own.scores),
        "images": gallery.content(),
        "image_differences": image_differences(images.paths, own, other) if other else None,
    }
    content["findings"] = findings.sentences(own, content, other)
    write_page(path, "evaluation.html.j2", title=title, facts=facts, content=content)


def _summary(own: Analysis, other: Analysis | None) -> list[dict]:
    return [
        {"key": key, "value": own.metrics[key], "meaning": MEANING[key], "other": other and other.metrics[key]}
        for key in SUMMARY_KEYS
    ]


def class_rows(own: Analysis, other: Analysis | None) -> list[dict]:
    """A row a class: AP, precision and recall at the threshold, and how many errors of which kind."""
    arrays, errors, precision = own.arrays, own.errors, own.curves.precision
    shown = arrays.found.scores[errors.rows] >= own.threshold
    classes = arrays.found.classes[errors.rows]
    num_classes = len(arrays.class_names)
    counts = np.stack([
        np.bincount(classes[shown & (errors.kinds == kind)], minlength=num_classes) for kind in range(MISSED)
    ])
    missed = np.bincount(arrays.truth.classes[own.images.missed_objects], minlength=num_classes)
    rows = []
    for k, name in enumerate(arrays.class_names):
        figures, right = own.metrics["per_class"][name], int(counts[RIGHT, k])
        row = {
            "class": name,
            "images": figures["images"],
            "objects": figures["boxes"],
            "AP": figures["AP"],
            "AP50": figures["AP50"],
            "AP75": _mean(precision[IOU_75, :, k]),
            "precision": right / counts[:, k].sum() if counts[:, k].any() else None,
            "recall": right / figures["boxes"] if figures["boxes"] else None,
        }
        row |= {kind: int(counts[number, k]) for number, kind in enumerate(KINDS[:-1], start=1)}
        row["missed"] = int(missed[k])
        if other:
            row["other AP"] = other.metrics["per_class"][name]["AP"]
            row["difference"] = row["AP"] - row["other AP"]
        rows.append(row)
    return rows


def error_rows(own: Analysis, other: Analysis | None) -> list[dict]:
    """A row a kind of error: its price in AP50, and how many there are at the threshold."""
    shown = own.errors.kinds[own.arrays.found.scores[own.errors.rows] >= own.threshold]
    return [
        {
            "kind": kind,
            "cost": own.errors.costs[kind],
            "other": other and other.errors.costs[kind],
            "count": int(own.images.missed_objects.sum() if number == MISSED else np.count_nonzero(shown == number)),
            "meaning": ERROR_MEANING[kind],
        }
        for number, kind in enumerate(KINDS, start=1)
    ]


def confusions(table: np.ndarray, names: list[str]) -> list[dict]:
    """The most frequent pairs of an object's class and another that it was taken for."""
    pairs = table[:-1, :-1] * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-pairs, axis=None, kind="stable")[:MOST_CONFUSIONS]
    return [
        {"object": names[row], "taken for": names[column], "times": int(pairs[row, column]),
         "of": int(table[row].sum())}
        for row, column in zip(*np.unravel_index(order, pairs.shape), strict=True)
        if pairs[row, column]
    ]  # fmt: skip


def image_differences(paths: list[Path], own: Analysis, other: Analysis) -> list[dict]:
    """The images whose F1 differs most, each run at its own threshold."""
    difference = own.images.f1 - other.images.f1
    order = np.argsort(-np.abs(difference), kind="stable")[:MOST_IMAGES]
    return [
        {"image": paths[i].name, "objects": int(own.images.objects[i]), "F1": own.images.f1[i],
         "other F1": other.images.f1[i], "difference": difference[i]}
        for i in order
        if difference[i]
    ]  # fmt: skip


def _curves(of: Curves) -> dict:
    """Precision at 101 points of recall, for all classes and each of them."""
    defined = of.precision[:, :, ~np.isnan(of.precision).any(axis=(0, 1))]
    overall = defined.mean(axis=2) if defined.shape[2] else np.zeros(defined.shape[:2])
    return {
        "IoU 0.50": overall[IOU_50],
        "IoU 0.75": overall[IOU_75],
        "mean of IoU 0.50 to 0.95": overall.mean(axis=0),
        "classes": [of.precision[IOU_50, :, k] for k in range(of.precision.shape[2])],
    }


def _bins(rows: np.ndarray, other: np.ndarray | None, edges: tuple[float, ...]) -> list[dict]:
    labels = [
        f"{low:g}–{high:g}" if math.isfinite(high) else f"over {low:g}"
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    return [
        {"label": label, "AP": row[0], "AP50": row[1], "AR": row[2], "objects": int(row[3]),
         "other": None if other is None else other[number][0]}
        for number, (label, row) in enumerate(zip(labels, rows, strict=True))
    ]  # fmt: skip


def _scores(of: Scores) -> dict:
    rows = [{"low": b / SCORE_BINS, "count": int(n), "score": mean, "right": right} for b, (n, mean, right) in
            enumerate(of.bins)]  # fmt: skip
    return {
        "bins": rows,
        "calibration_error": of.calibration_error,
        "precision": of.precision,
        "recall": of.recall,
        "f1": of.f1,
    }


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
