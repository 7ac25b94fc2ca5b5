"""COCO's greedy matching of detections with objects, for all images and classes at once.

The rules are those of pycocotools' ``COCOeval.evaluateImg``. Only pairs of one image and class whose IoU reaches the
lowest threshold can ever match; they are few, and everything here is about them. Matching is sequential only within an
image and class, so that all of these take their next detection together.

Letters in shapes: D detections, G objects, P pairs of a detection and an object, T IoU thresholds, A subsets of the
objects: COCO's ranges of area, or others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# linspace as in pycocotools: arange lies above some of these values, and the difference decides ties.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
# All, small, medium and large, in square pixels; both ends belong to the range.
AREA_RANGES = np.array(((0.0, 1e5**2), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e5**2)))
# What a detection was matched with. An ignored object is a crowd, or one outside of the range of area.
NOTHING, OBJECT, IGNORED = range(3)
# Bounds the memory: a pair takes about 100 bytes while its IoU is computed.
PAIRS_AT_ONCE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class TruthArrays:
    """Objects, a row each.

    Attributes:
        images: int64 [G], the image's position among those evaluated.
        classes: int64 [G], from 0.
        boxes_xywh: float64 [G, 4] in pixels.
        areas: float64 [G] in square pixels; an annotation's area need not be that of its box.
        crowd: bool [G].
    """

    images: np.ndarray
    classes: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray

    def rows(self, chosen: np.ndarray) -> "TruthArrays":
        """The objects of these indices, or of this mask."""
        return TruthArrays(**{name: values[chosen] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class FoundArrays:
    """Detections, a row each: ``images`` and ``classes`` as of the objects, ``boxes_xywh`` float64, ``scores`` [D]."""

    images: np.ndarray
    classes: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray

    def rows(self, chosen: np.ndarray) -> "FoundArrays":
        """The detections of these indices, or of this mask."""
        return FoundArrays(**{name: values[chosen] for name, values in vars(self).items()})

    def areas(self) -> np.ndarray:
        """float64 [D] in square pixels."""
        with np.errstate(over="ignore"):  # infinity lies outside of every range
            return self.boxes_xywh[:, 2] * self.boxes_xywh[:, 3]


def in_ranges(areas: np.ndarray) -> np.ndarray:
    """bool [n, A]: the ranges that each area [n] lies in."""
    return (areas[:, None] >= AREA_RANGES[:, 0]) & (areas[:, None] <= AREA_RANGES[:, 1])


def match(
    truth: TruthArrays,
    truth_groups: np.ndarray,
    found: FoundArrays,
    found_groups: np.ndarray,
    ignored: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match detections with objects of their group, most often an image and class, the best score first.

    A detection takes the free object with the highest IoU that reaches the threshold, of equal ones the last; an
    ignored object only if no other will do. A crowd stays free.

    Args:
        truth: sorted by group.
        truth_groups: int64 [G], the group of each object.
        found: sorted by group, and by falling score within.
        found_groups: int64 [D].
        ignored: bool [G, A], the objects that are neither to be found nor to be missed; crowds always are.

    Returns:
        Rows of ``found`` that overlap an object enough for the lowest threshold [C], ascending; for each of them
        uint8 [C, T, A]: ``NOTHING``, ``OBJECT`` or ``IGNORED``; and int64 [C], the row of ``truth`` that it is matched
        with at the lowest threshold in the first subset, -1 for nothing. Every other detection is matched with nothing.
    """
    first = np.searchsorted(truth_groups, found_groups, side="left")
    counts = np.searchsorted(truth_groups, found_groups, side="right") - first
    ignored = ignored | truth.crowd[:, None]
    no_outcomes = np.zeros((0, len(IOU_THRESHOLDS), ignored.shape[1]), np.uint8)
    matched = [(np.zeros(0, np.int64), no_outcomes, np.zeros(0, np.int64))]
    for part in parts_of_groups(found_groups, counts):
        detections, objects = pairs_of(part, first, counts)
        ious = pair_ious(found.boxes_xywh[detections], truth.boxes_xywh[objects], truth.crowd[objects])
        enough = ious >= IOU_THRESHOLDS[0]  # false for NaN, which two boxes of no size can give
        matched.append(
            _match_pairs(
                detections[enough], objects[enough], ious[enough], found_groups, ignored[objects[enough]], truth.crowd
            )
        )
    return tuple(np.concatenate(column) for column in zip(*matched, strict=True))


def parts_of_groups(groups: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """Detections that have objects in their group, in parts of whole groups and about ``PAIRS_AT_ONCE`` pairs."""
    rows = np.flatnonzero(counts)
    if not len(rows):
        return
    is_first = np.diff(groups[rows], prepend=groups[rows[0]] - 1) != 0
    pairs_before_group = (np.cumsum(counts[rows]) - counts[rows])[is_first]
    starts = np.flatnonzero(is_first)[np.diff(pairs_before_group // PAIRS_AT_ONCE, prepend=-1) != 0]
    yield from np.split(rows, starts[1:])


def pairs_of(rows: np.ndarray, first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of these detections with the objects of their group: rows of both, sorted by detection."""
    return np.repeat(rows, counts[rows]), _ranges(first[rows], counts[rows])


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, ... (counts[0] numbers), first[1], ..."""
    return np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)


def pair_ious(found_xywh: np.ndarray, truth_xywh: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU [P] in pycocotools' order of operations; of a crowd, the part of the detection that lies inside."""
    with np.errstate(over="ignore", invalid="ignore"):
        low = np.maximum(found_xywh[:, :2], truth_xywh[:, :2])
        high = np.minimum(found_xywh[:, 2:] + found_xywh[:, :2], truth_xywh[:, 2:] + truth_xywh[:, :2])
        width, height = (high - low).T
        shared = np.where((width > 0) & (height > 0), width * height, 0.0)
        found_area = found_xywh[:, 2] * found_xywh[:, 3]
        union = np.where(crowd, found_area, found_area + truth_xywh[:, 2] * truth_xywh[:, 3] - shared)
        return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _match_pairs(
    detections: np.ndarray,
    objects: np.ndarray,
    ious: np.ndarray,
    found_groups: np.ndarray,
    ignored: np.ndarray,
    crowd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The greedy matching of pairs [P], sorted by detection and object, with ``ignored`` [P, A] of their objects."""
    order = np.lexsort((ious, detections))  # stable: of equal IoUs the last object stays last
    objects, ious, ignored = objects[order], ious[order], ignored[order]
    rows, first, counts = np.unique(detections, return_index=True, return_counts=True)
    shape = len(IOU_THRESHOLDS), ignored.shape[1]
    outcomes = np.full((len(rows), *shape), NOTHING, np.uint8)
    taken_first = np.full(len(rows), -1)
    # What a detection would rather have is greater: position 1, 2, ... by IoU, and all ignored below all others.
    places = _ranges(np.ones_like(counts), counts)
    wishes_PA = np.where(ignored, places[:, None], (places + np.repeat(counts, counts))[:, None])
    reaches_PT = ious[:, None] >= IOU_THRESHOLDS
    unique_objects, objects = np.unique(objects, return_inverse=True)
    is_single = ~crowd[unique_objects]
    taken_GTA = np.zeros((len(unique_objects), *shape), bool)
    for turn in _turns(found_groups[rows]):
        # Turn n: the n-th detection of every group, so that no two of these want the same object.
        pairs = _ranges(first[turn], counts[turn])
        free = reaches_PT[pairs][:, :, None] & ~taken_GTA[objects[pairs]]
        starts = np.cumsum(counts[turn]) - counts[turn]
        best_DTA = np.maximum.reduceat(np.where(free, wishes_PA[pairs][:, None, :], 0), starts)
        is_object = best_DTA > counts[turn][:, None, None]
        outcomes[turn] = np.where(is_object, OBJECT, np.where(best_DTA > 0, IGNORED, NOTHING))
        which, threshold, subset = np.nonzero(best_DTA)
        chosen = first[turn][which] + (best_DTA[which, threshold, subset] - 1) % counts[turn][which]
        taken_GTA[objects[chosen], threshold, subset] = is_single[objects[chosen]]
        at_first = (threshold == 0) & (subset == 0)
        taken_first[turn[which[at_first]]] = unique_objects[objects[chosen[at_first]]]
    return rows, outcomes, taken_first


def _turns(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of the first member of every group, of every second one, and so on, of sorted ``groups``."""
    if not len(groups):
        return
    is_first = np.diff(groups, prepend=groups[0] - 1) != 0
    turn = np.arange(len(groups)) - np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    order = np.argsort(turn, kind="stable")
    yield from np.split(order, np.cumsum(np.bincount(turn))[:-1])
