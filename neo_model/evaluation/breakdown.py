"""Where a detector is good and where it is not: by size and place of the objects, by score, by pair of classes.

Letters in shapes: D detections, G objects, I images, K classes, B bins.
"""

from dataclasses import dataclass

import numpy as np

from neo_model.evaluation.average_precision import precision_and_recall
from neo_model.evaluation.coco import EvaluatedArrays
from neo_model.evaluation.error_types import IGNORED, RIGHT, ErrorTypes
from neo_model.evaluation.matching import NOTHING, OBJECT, match

# Of the square root of an object's area, in pixels of the image file.
SIZE_EDGES = (0.0, 16.0, 32.0, 64.0, 96.0, 192.0, 384.0, np.inf)
# Of the distance of a box's centre from the image's, in parts of the way to a corner.
DISTANCE_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, np.inf)
SCORE_BINS = 10
THRESHOLDS = np.arange(0, 101) / 100


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Figures over all objects and over parts of them; NaN where there is no object.

    Attributes:
        precision: float64 [T, R, K] over IoU thresholds, recall points and classes.
        by_size, by_distance: a row a bin: AP, AP50, AR (100 detections) and the number of objects, float64 [B, 4].
    """

    precision: np.ndarray
    by_size: np.ndarray
    by_distance: np.ndarray


def curves(arrays: EvaluatedArrays, sizes_wh: np.ndarray) -> Curves:
    """AP over all objects, by size and by distance from the centre.

    Args:
        arrays: what there is and what was found.
        sizes_wh: [I, 2], width and height of the images in pixels.
    """
    truth, found = arrays.truth, arrays.found
    of_truth = np.sqrt(truth.areas), _distances(truth.boxes_xywh, sizes_wh[truth.images])
    of_found = np.sqrt(np.maximum(found.areas(), 0)), _distances(found.boxes_xywh, sizes_wh[found.images])
    inside = [
        np.concatenate(
            [np.ones((len(rows.images), 1), bool), *(_in_bins(v, e) for v, e in zip(values, edges, strict=True))], axis=1
        )
        for rows, values in ((truth, of_truth), (found, of_found))
        for edges in [(SIZE_EDGES, DISTANCE_EDGES)]
    ]
    precision, recall = precision_and_recall(
        truth, found, num_images=len(arrays.image_ids), num_classes=len(arrays.class_names), inside=tuple(inside)
    )
    counts = (inside[0] & ~truth.crowd[:, None]).sum(axis=0)
    rows = np.array([
        [_mean(precision[..., a]), _mean(precision[0, ..., a]), _mean(recall[..., a, -1]), counts[a]]
        for a in range(1, len(counts))
    ])
    num_sizes = len(SIZE_EDGES) - 1
    return Curves(precision=precision[..., 0], by_size=rows[:num_sizes], by_distance=rows[num_sizes:])


def _distances(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """0 at the image's centre, 1 at its corners."""
    offset = boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2 - sizes_wh / 2
    return np.hypot(*offset.T) / (np.hypot(*sizes_wh.T) / 2)


def _in_bins(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """bool [n, B]: a bin holds its lower edge."""
    return (values[:, None] >= edges[:-1]) & (values[:, None] < edges[1:])


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What scores mean, at IoU 0.5.

    Attributes:
        bins: float64 [B, 3] for scores 0 to 0.1, and so on: detections, their mean score, the part that is right.
        calibration_error: mean distance of score and part that is right, by detections.
        precision, recall, f1: [101], of all detections with a score of at least 0, 0.01, ... 1.
        best: the threshold of the highest f1, the lowest of several.
    """

    bins: np.ndarray
    calibration_error: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    best: float


def scores(arrays: EvaluatedArrays, errors: ErrorTypes) -> Scores:
    """Calibration and the price of every threshold."""
    counted = errors.kinds != IGNORED
    score = arrays.found.scores[errors.rows][counted].astype(np.float64)
    is_right = errors.kinds[counted] == RIGHT
    which = np.clip((score * SCORE_BINS).astype(int), 0, SCORE_BINS - 1)
    counts, sums, hits = (np.bincount(which, w, minlength=SCORE_BINS) for w in (np.ones_like(score), score, is_right))
    with np.errstate(invalid="ignore"):
        bins = np.stack((counts, sums / counts, hits / counts), axis=1)
    gaps = np.abs(sums - hits).sum() / max(1, len(score))
    order = np.argsort(-score, kind="stable")
    num_above = np.searchsorted(-score[order], -THRESHOLDS, side="right")
    hits_above = np.concatenate([[0], np.cumsum(is_right[order])])[num_above]
    num_objects = np.count_nonzero(~arrays.truth.crowd)
    precision = np.where(num_above > 0, hits_above / np.maximum(num_above, 1), 1.0)
    recall = hits_above / max(1, num_objects)
    f1 = 2 * hits_above / np.maximum(1, num_above + num_objects)
    return Scores(
        bins=bins,
        calibration_error=float(gaps),
        precision=precision,
        recall=recall,
        f1=f1,
        best=float(THRESHOLDS[np.argmax(f1)]),
    )


def confusion(arrays: EvaluatedArrays, threshold: float) -> np.ndarray:
    """What objects of each class were found as, at IoU 0.5 and without regard to the class.

    Returns:
        int64 [K + 1, K + 1], rows by the object's class and columns by the detection's; the last column counts objects
        that nothing found, the last row detections of nothing.
    """
    num_classes = len(arrays.class_names)
    truth = arrays.truth.rows(np.argsort(arrays.truth.images, kind="stable"))
    found = arrays.found.rows(np.flatnonzero(arrays.found.scores >= threshold))
    found = found.rows(np.lexsort((-found.scores, found.images)))
    no_subset = np.zeros((len(truth.images), 1), bool)
    matched, outcomes, taken = match(truth, truth.images, found, found.images, no_subset)
    outcome = np.full(len(found.scores), NOTHING, np.uint8)
    outcome[matched] = outcomes[:, 0, 0]
    hits = outcomes[:, 0, 0] == OBJECT
    is_found = np.zeros(len(truth.images), bool)
    is_found[taken[hits]] = True
    table = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(table, (truth.classes[taken[hits]], found.classes[matched[hits]]), 1)
    np.add.at(table, (truth.classes[~is_found & ~truth.crowd], num_classes), 1)
    np.add.at(table, (num_classes, found.classes[outcome == NOTHING]), 1)
    return table
