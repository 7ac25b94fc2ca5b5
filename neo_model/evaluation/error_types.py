"""Why detections are wrong and objects not found, and what each kind of error costs in AP.

The kinds and their costs are those of TIDE (Bolya et al., ECCV 2020), to the figures of its program: a detection that
matches nothing is, in this order, badly placed (``LOCALISATION``: IoU 0.1 to 0.5 with an object of its class), of the
wrong class (``CLASSIFICATION``: IoU 0.5 with an object of another), one too many (``DUPLICATE``), on nothing
(``BACKGROUND``: under 0.1 with anything), or both badly placed and of the wrong class (``BOTH``). ``MISSED`` objects
are those that no detection found, nor would have found with another class or place.

Letters in shapes: D detections, G objects, P pairs of them, K classes.
"""

from dataclasses import dataclass

import numpy as np

from neo_model.evaluation.average_precision import best_of_groups, interpolated
from neo_model.evaluation.matching import (
    IOU_THRESHOLDS,
    NOTHING,
    OBJECT,
    FoundArrays,
    TruthArrays,
    match,
    pair_ious,
    pairs_of,
    parts_of_groups,
)

RIGHT, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED, IGNORED = range(8)
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")  # of 1 to 6
FOREGROUND_IOU, BACKGROUND_IOU = float(IOU_THRESHOLDS[0]), 0.1


@dataclass(frozen=True, kw_only=True)
class ErrorTypes:
    """What became of each detection and object at IoU 0.5.

    Attributes:
        rows: int64 [D], which detections these are: the best 100 of each image and class, by image, class and score.
        kinds: uint8 [D], one of the constants of this module; ``IGNORED`` lies on a crowd and counts for nothing.
        objects: int64 [D], the object that a detection found, or would have found with another class, place or
            without the better one; -1 for none.
        missed: bool [G].
        ap50: AP at IoU 0.5, as COCO's.
        costs: by kind, how much higher AP50 would be without its errors: never below 0.
    """

    rows: np.ndarray
    kinds: np.ndarray
    objects: np.ndarray
    missed: np.ndarray
    ap50: float
    costs: dict[str, float]


def error_types(truth: TruthArrays, found: FoundArrays, *, num_classes: int) -> ErrorTypes:
    """Tell every detection's kind of error, and the price of each kind.

    Args:
        truth: objects.
        found: detections.
        num_classes: upper end of the classes.
    """
    order = np.lexsort((truth.classes, truth.images))  # by image and class: groups of both kinds are together
    sorted_truth = truth.rows(order)
    rows, groups, _ = best_of_groups(found.scores, found.images * num_classes + found.classes)
    found = found.rows(rows)
    kinds, objects = _matched(sorted_truth, found, groups, num_classes)
    wrong = np.flatnonzero(kinds == BACKGROUND)
    kinds[wrong], objects[wrong] = _kinds_of_wrong(sorted_truth, found.rows(wrong))
    is_found = np.zeros(len(order), bool)
    is_found[objects[kinds == RIGHT]] = True
    within_reach = np.isin(kinds, (CLASSIFICATION, LOCALISATION))
    mendable = np.zeros(len(order), bool)
    mendable[objects[within_reach]] = True
    missed = ~(is_found | mendable | sorted_truth.crowd)
    ap50, costs = _costs(sorted_truth, found, kinds, objects, is_found, missed, num_classes)
    missed_in_order = np.empty_like(missed)
    missed_in_order[order] = missed
    return ErrorTypes(
        rows=rows,
        kinds=kinds,
        objects=np.where(objects >= 0, order[objects] if len(order) else -1, -1),
        missed=missed_in_order,
        ap50=ap50,
        costs=costs,
    )


def _matched(
    truth: TruthArrays, found: FoundArrays, groups: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kinds [D], ``BACKGROUND`` for all that are wrong, and the objects that those that are right found."""
    no_subset = np.zeros((len(truth.crowd), 1), bool)
    matched, outcomes, taken = match(truth, truth.images * num_classes + truth.classes, found, groups, no_subset)
    outcomes = outcomes[:, 0, 0]
    kinds, objects = np.full(len(groups), BACKGROUND, np.uint8), np.full(len(groups), -1)
    kinds[matched[outcomes != NOTHING]] = IGNORED
    hits = outcomes == OBJECT
    kinds[matched[hits]] = RIGHT
    objects[matched[hits]] = taken[hits]
    return kinds, objects


def _kinds_of_wrong(truth: TruthArrays, wrong: FoundArrays) -> tuple[np.ndarray, np.ndarray]:
    """Kinds of detections that match nothing, sorted by image, and the objects they are about."""
    of_image = truth.rows(np.flatnonzero(~truth.crowd))
    originals = np.flatnonzero(~truth.crowd)
    first = np.searchsorted(of_image.images, wrong.images, side="left")
    counts = np.searchsorted(of_image.images, wrong.images, side="right") - first
    ious = {same: np.zeros(len(first)) for same in (True, False)}
    nearest = {same: np.full(len(first), -1) for same in (True, False)}
    for part in parts_of_groups(wrong.images, counts):
        detections, objects = pairs_of(part, first, counts)
        boxes = wrong.boxes_xywh[detections], of_image.boxes_xywh[objects]
        overlaps = pair_ious(*boxes, np.zeros(len(objects), bool))
        is_same = wrong.classes[detections] == of_image.classes[objects]
        for same in (True, False):
            chosen = np.flatnonzero((is_same == same) & (overlaps >= BACKGROUND_IOU))
            chosen = chosen[np.argsort(overlaps[chosen], kind="stable")]
            # Of several values for one place numpy keeps the last: the highest IoU.
            ious[same][detections[chosen]] = overlaps[chosen]
            nearest[same][detections[chosen]] = originals[objects[chosen]]
    cases = (
        ((ious[True] >= BACKGROUND_IOU) & (ious[True] < FOREGROUND_IOU), LOCALISATION, nearest[True]),
        (ious[False] >= FOREGROUND_IOU, CLASSIFICATION, nearest[False]),
        (ious[True] >= FOREGROUND_IOU, DUPLICATE, nearest[True]),
        (ious[False] >= BACKGROUND_IOU, BOTH, nearest[False]),
    )
    conditions = [condition for condition, _, _ in cases]
    kinds = np.select(conditions, [kind for _, kind, _ in cases], BACKGROUND).astype(np.uint8)
    return kinds, np.select(conditions, [objects for _, _, objects in cases], -1)


def _costs(
    truth: TruthArrays,
    found: FoundArrays,
    kinds: np.ndarray,
    objects: np.ndarray,
    is_found: np.ndarray,
    missed: np.ndarray,
    num_classes: int,
) -> tuple[float, dict[str, float]]:
    """AP50, and by how much it rises when one kind of error is mended and all others stay."""
    num_objects = np.bincount(truth.classes[~truth.crowd], minlength=num_classes)
    counted, is_right = kinds != IGNORED, kinds == RIGHT
    ap50 = _mean_ap50(found.scores[counted], is_right[counted], found.classes[counted], num_objects, num_objects)
    saves = _saviours(found, kinds, objects, is_found)
    costs = {}
    for kind, name in enumerate(KINDS, start=1):
        of_kind = kinds == kind
        # A wrong class or place is put right, once for each object that has not been found; others just vanish.
        mended = of_kind & saves
        kept = counted & ~(of_kind & ~saves)
        classes = found.classes.copy()
        classes[mended] = truth.classes[objects[mended]]
        to_find = num_objects
        if kind == MISSED:
            to_find = num_objects - np.bincount(truth.classes[missed], minlength=num_classes)
        fixed = _mean_ap50(found.scores[kept], (is_right | mended)[kept], classes[kept], to_find, num_objects)
        costs[name] = max(0.0, fixed - ap50)
    return ap50, costs


def _saviours(found: FoundArrays, kinds: np.ndarray, objects: np.ndarray, is_found: np.ndarray) -> np.ndarray:
    """bool [D]: the best detection of each object that a better class or place would have found."""
    saves = np.zeros(len(kinds), bool)
    candidates = np.flatnonzero(np.isin(kinds, (CLASSIFICATION, LOCALISATION)))
    candidates = candidates[~is_found[objects[candidates]]]
    best_first = candidates[np.argsort(-found.scores[candidates], kind="stable")]
    _, first = np.unique(objects[best_first], return_index=True)
    saves[best_first[first]] = True
    return saves


def _mean_ap50(
    scores: np.ndarray, hits: np.ndarray, classes: np.ndarray, to_find: np.ndarray, num_objects: np.ndarray
) -> float:
    """Mean AP of the classes that have objects; 1 for a class of which none is left to find."""
    order = np.lexsort((-scores, classes))
    hits, bounds = hits[order], np.searchsorted(classes[order], np.arange(len(to_find) + 1))
    values = []
    for k in np.flatnonzero(num_objects):
        of_class = hits[bounds[k] : bounds[k + 1]]
        if not to_find[k]:
            values.append(1.0)
        else:
            counts = np.arange(1, len(of_class) + 1)[:, None]
            values.append(float(interpolated(np.cumsum(of_class)[:, None], counts, to_find[k]).mean()))
    return float(np.mean(values)) if values else float("nan")
