"""Which images a page shows, and what it shows of them: a few dozen of thousands, small, with all their boxes."""

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from neo_model.data.image_files import load_image
from neo_model.evaluation.coco import EvaluatedArrays
from neo_model.evaluation.error_types import IGNORED, MISSED, RIGHT, ErrorTypes

MOST_PICTURES = 120
LONGEST_SIDE = 640
JPEG_QUALITY = 80
MOST_BYTES = 14_000_000  # of pictures in base64
OVERALL = 48  # of the worst and the best together, and with another evaluation of those that differ most, both ways
MOST_BOXES = 100  # of an image, best first
LOWEST_SCORE = 0.05


@dataclass(frozen=True, kw_only=True)
class ImageStatistics:
    """Counts of each image [I] at one threshold of the score and IoU 0.5.

    Attributes:
        objects, right, wrong: objects that are no crowds, detections that found one, and those that did not.
        f1: 2 right / (right + wrong + objects); 1 where there is neither object nor detection.
        missed_objects: bool, a row an object of the arrays: neither found nor within reach of another class or place.
    """

    objects: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    f1: np.ndarray
    missed_objects: np.ndarray


def image_statistics(arrays: EvaluatedArrays, errors: ErrorTypes, threshold: float) -> ImageStatistics:
    """Count what each image's detections of at least that score are worth."""
    num_images = len(arrays.image_ids)
    shown = arrays.found.scores[errors.rows] >= threshold
    images = arrays.found.images[errors.rows]
    right = np.bincount(images[shown & (errors.kinds == RIGHT)], minlength=num_images)
    wrong = np.bincount(images[shown & (errors.kinds != RIGHT) & (errors.kinds != IGNORED)], minlength=num_images)
    objects = np.bincount(arrays.truth.images[~arrays.truth.crowd], minlength=num_images)
    missed = ~arrays.truth.crowd
    missed[errors.objects[shown & (errors.objects >= 0)]] = False
    total = right + wrong + objects
    f1 = np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0)
    return ImageStatistics(objects=objects, right=right, wrong=wrong, f1=f1, missed_objects=missed)


class Gallery:
    """The pictures of a page.

    Args:
        paths: the images.
        sizes_wh: [I, 2] in pixels.
        own: the ``Analysis`` that is shown.
        other: another one to show beside it, or None.
    """

    def __init__(self, paths: list[Path], sizes_wh: np.ndarray, own, other) -> None:
        self.paths, self.sizes_wh, self.own, self.other = paths, sizes_wh, own, other

    def content(self) -> list[dict]:
        """An entry an image: its picture, counts, objects and detections, all in pixels of the file."""
        entries, size = [], 0
        for index in tqdm(self.chosen(), desc="shrinking pictures", unit="image", leave=False, disable=None):
            picture = _thumbnail(self.paths[index], tuple(self.sizes_wh[index].tolist()))
            size += len(picture)
            if size > MOST_BYTES:
                break
            entries.append(self._entry(index, picture))
        return entries

    def chosen(self) -> list[int]:
        """Positions of the images to show: the worst, the best, those that differ, then of every class and error."""
        images = self.own.images
        worst = np.lexsort((-(images.wrong + images.objects - images.right), images.f1))
        best = np.lexsort((-images.objects, -images.f1))
        orders = [worst, best]
        if self.other:
            order = np.argsort(images.f1 - self.other.images.f1, kind="stable")
            orders += [order, order[::-1]]
        orders = [order[: OVERALL // len(orders)] for order in orders]
        wanted = dict.fromkeys(int(index) for turn in _by_turns(orders) for index in turn)
        wanted |= dict.fromkeys(self._of_every_error())
        return list(wanted)[:MOST_PICTURES]

    def _of_every_error(self) -> list[int]:
        """For every pair of class and kind of error the image with its highest score; of missed, with the most."""
        arrays, errors = self.own.arrays, self.own.errors
        of_rows = arrays.found.rows(errors.rows)
        order = np.argsort(-of_rows.scores, kind="stable")
        order = order[errors.kinds[order] != IGNORED]
        pairs = of_rows.classes[order] * MISSED + errors.kinds[order]
        _, first = np.unique(pairs, return_index=True)
        best_first = np.sort(first)
        by_score = of_rows.images[order[best_first]].tolist()
        missed = arrays.truth.rows(np.flatnonzero(self.own.images.missed_objects))
        groups, counts = np.unique(np.stack((missed.classes, missed.images)), axis=1, return_counts=True)
        most_first = np.argsort(-counts, kind="stable")
        _, first = np.unique(groups[0][most_first], return_index=True)
        by_missed = groups[1][most_first[np.sort(first)]].tolist()
        return [index for turn in _by_turns([by_missed, by_score]) for index in turn]

    def _entry(self, index: int, picture: str) -> dict:
        width, height = self.sizes_wh[index].tolist()
        truth = self.own.arrays.truth
        objects = np.flatnonzero(truth.images == index)
        entry = {
            "id": int(self.own.arrays.image_ids[index]),
            "file": self.paths[index].name,
            "width": width,
            "height": height,
            "picture": picture,
            "f1": self.own.images.f1[index],
            "wrong": int(self.own.images.wrong[index]),
            "objects": int(self.own.images.objects[index]),
            "right": int(self.own.images.right[index]),
            "truth": [
                [*np.round(truth.boxes_xywh[row], 1), truth.classes[row], int(truth.crowd[row])] for row in objects
            ],
            "found": _detections(self.own, index, objects),
        }
        if self.other:
            entry["other_f1"] = self.other.images.f1[index]
            entry["other_found"] = _detections(self.other, index, objects)
        return entry


def _detections(of, index: int, objects: np.ndarray) -> list[list]:
    """x, y, width, height, class, score, kind of error and place of its object among the image's, -1 for none."""
    rows = np.flatnonzero(of.arrays.found.images[of.errors.rows] == index)
    found = of.arrays.found.rows(of.errors.rows[rows])
    order = np.argsort(-found.scores, kind="stable")[:MOST_BOXES]
    order = order[found.scores[order] >= min(LOWEST_SCORE, of.threshold)]
    places = {int(row): place for place, row in enumerate(objects)}
    return [
        [*np.round(found.boxes_xywh[i], 1), found.classes[i], np.round(found.scores[i], 3), of.errors.kinds[rows[i]],
         places.get(int(of.errors.objects[rows[i]]), -1)]
        for i in order
    ]  # fmt: skip


def _by_turns(orders: list) -> list[list[int]]:
    """The first of every list, then the second of every one, and so on."""
    longest = max(map(len, orders), default=0)
    return [[int(order[turn]) for order in orders if turn < len(order)] for turn in range(longest)]


def _thumbnail(path: Path, size_wh: tuple[int, int]) -> str:
    """A small JPEG as a data address."""
    image = load_image(path, size_wh)
    scale = min(1.0, LONGEST_SIDE / max(size_wh))
    small_wh = tuple(max(1, round(side * scale)) for side in size_wh)
    small = cv2.resize(image, small_wh, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
