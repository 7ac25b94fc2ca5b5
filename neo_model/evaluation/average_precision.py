"""Precision and recall as COCO defines them, from arrays: pycocotools' figures without an object per detection.

A detection that overlaps no object only matters by how many of its kind come before a true positive. So thresholds and
ranges of area are worked through for those that overlap one; all others go into one cumulative sum.

Letters in shapes: D detections, C those that overlap an object, T IoU thresholds, R points of recall, K classes,
A subsets of the objects, M limits of detections.
"""

import numpy as np

from neo_model.evaluation.matching import (
    IOU_THRESHOLDS,
    NOTHING,
    OBJECT,
    FoundArrays,
    TruthArrays,
    in_ranges,
    match,
)

RECALL_POINTS = np.linspace(0.0, 1.0, 101)
# How many detections of an image and class count, the best ones.
LIMITS = (1, 10, 100)


def precision_and_recall(
    truth: TruthArrays,
    found: FoundArrays,
    *,
    num_images: int,
    num_classes: int,
    inside: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What pycocotools' ``evaluate`` and ``accumulate`` compute.

    Args:
        truth: objects.
        found: detections; of equal scores the smaller image, and in it the earlier row, comes first.
        num_images: upper end of the images' positions.
        num_classes: upper end of the classes.
        inside: which objects bool [G, A] and which detections bool [D, A] each subset holds; COCO's ranges of area by
            default. Objects outside are ignored, and so are the detections outside that match nothing.

    Returns:
        Interpolated precision [T, R, K, A] of the best 100 detections of each image and class, and recall [T, K, A, M];
        float64, NaN where there is no object to find.
    """
    truth_inside, found_inside = (in_ranges(truth.areas), in_ranges(found.areas())) if inside is None else inside
    truth_groups = truth.classes * num_images + truth.images
    order = np.argsort(truth_groups, kind="stable")
    truth, truth_groups, truth_inside = truth.rows(order), truth_groups[order], truth_inside[order]
    kept, found_groups, ranks = best_of_groups(found.scores, found.classes * num_images + found.images)
    found, found_inside = found.rows(kept), found_inside[kept]
    rows, outcomes, _ = match(truth, truth_groups, found, found_groups, ~truth_inside)

    to_find = truth_inside & ~truth.crowd[:, None]
    num_objects = np.stack([np.bincount(truth.classes[column], minlength=num_classes) for column in to_find.T], axis=1)
    found_bounds = np.searchsorted(found.classes, np.arange(num_classes + 1))
    match_bounds = np.searchsorted(rows, found_bounds)
    num_subsets = to_find.shape[1]
    precision = np.empty((len(IOU_THRESHOLDS), len(RECALL_POINTS), num_classes, num_subsets))
    recall = np.empty((len(IOU_THRESHOLDS), num_classes, num_subsets, len(LIMITS)))
    for k in range(num_classes):
        of_found, of_match = slice(*found_bounds[k : k + 2]), slice(*match_bounds[k : k + 2])
        precision[:, :, k], recall[:, k] = _curves(
            found.scores[of_found],
            ranks[of_found],
            found_inside[of_found],
            rows[of_match] - of_found.start,
            outcomes[of_match],
            num_objects[k],
        )
    return precision, recall


def best_of_groups(scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the detections that count, by group and then by falling score; their groups, and ranks within from 0."""
    order = np.lexsort((-scores, groups))
    groups = groups[order]
    ranks = np.arange(len(groups)) - np.searchsorted(groups, groups)
    kept = ranks < LIMITS[-1]
    return order[kept], groups[kept], ranks[kept]


def _curves(
    scores: np.ndarray,
    ranks: np.ndarray,
    inside: np.ndarray,
    rows: np.ndarray,
    outcomes: np.ndarray,
    num_objects: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, R, A] and recall [T, A, M] of one class.

    Args:
        scores: [D], in the order in which equal scores are to be taken.
        ranks: [D] within image and class.
        inside: bool [D, A], whether a detection is in the subset.
        rows: [C] detections that overlap an object.
        outcomes: uint8 [C, T, A] what these were matched with.
        num_objects: [A] to find.
    """
    precision = np.full((len(IOU_THRESHOLDS), len(RECALL_POINTS), len(num_objects)), np.nan)
    recall = np.full((len(IOU_THRESHOLDS), len(num_objects), len(LIMITS)), np.nan)
    order = np.argsort(-scores, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    by_score = np.argsort(places[rows])
    rows, outcomes = rows[by_score], outcomes[by_score]
    overlaps_nothing = np.ones(len(scores), bool)
    overlaps_nothing[rows] = False
    for a in np.flatnonzero(num_objects):
        hits = outcomes[:, :, a] == OBJECT
        counted = hits | ((outcomes[:, :, a] == NOTHING) & inside[rows, a, None])
        others = np.cumsum((overlaps_nothing & inside[:, a])[order])[places[rows]]
        precision[:, :, a] = interpolated(
            np.cumsum(hits, axis=0), np.cumsum(counted, axis=0) + others[:, None], num_objects[a]
        )
        for m, limit in enumerate(LIMITS):
            recall[:, a, m] = np.count_nonzero(hits[ranks[rows] < limit], axis=0) / num_objects[a]
    return precision, recall


def interpolated(hits: np.ndarray, counted: np.ndarray, num_objects: int) -> np.ndarray:
    """Highest precision at each recall or beyond [T, R], from counts [C, T] down to each score."""
    # The spacing is pycocotools' guard against 0 / 0; it is kept for equal figures.
    precision = hits / (counted + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    at_points = np.zeros((hits.shape[1], len(RECALL_POINTS)))
    for t in range(hits.shape[1]):
        reached = np.searchsorted(hits[:, t] / num_objects, RECALL_POINTS, side="left")
        reached = reached[reached < len(envelope)]  # recalls beyond the last have precision 0
        at_points[t, : len(reached)] = envelope[reached, t]
    return at_points
