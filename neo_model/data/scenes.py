"""Generated scenes: textured backgrounds with shaded objects, written as JPEG files with COCO annotations.

Every picture comes from its own random generator, seeded by (seed, split, index), so the number of workers changes
nothing and a longer set begins with the shorter one.
"""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from neo_model.data.sprites import CLASS_NAMES, Sprite, draw_sprite, hsv, smooth_noise

SPLITS = ("train", "val")
# Part of the stamp that a finished set carries: raise it with every change that alters a picture or a box.
GENERATOR_VERSION = 1

_EMPTY_SHARE = 0.06
_OBJECT_COUNT_WEIGHTS = np.array([14, 20, 20, 16, 12, 8, 6, 4])  # for 1 to 8 objects
_SMALLEST_SIDE = 12.0  # pixels, at every resolution; less on pictures under 120 pixels high
_LARGEST_SHARE = 0.55  # of the height
_SIZE_LEAN = 0.62  # below 1, sizes lean from log-uniform towards the large
_MIN_VISIBLE = 0.4  # an object never has less than this share of it in sight
_PLACEMENT_TRIES = 12

_Box = tuple[int, int, int, int]
_Labels = tuple[list[int], list[_Box]]  # the labels and xywh boxes of one picture


@dataclass(frozen=True)
class Scene:
    """One picture and what can be seen in it.

    Args:
        image: uint8 [H, W, 3] RGB.
        labels: indices into CLASS_NAMES, back to front.
        boxes_xywh: whole pixels, tight round the visible part of each object.
    """

    image: np.ndarray
    labels: list[int]
    boxes_xywh: list[_Box]


def write_scenes(
    folder: Path, *, width: int, height: int, counts: dict[str, int], seed: int, workers: int
) -> Iterator[int]:
    """Write `<split>/000000.jpg ...` and `instances_<split>.json` for each split; yields the pictures done so far.

    Args:
        folder: an existing folder to write into.
        width, height: size of every picture, pixels.
        counts: number of pictures for "train" and "val".
        workers: threads (cv2 and numpy release the lock for most of the work).
    """
    records: dict[str, list[_Labels]] = {split: [] for split in counts}
    jobs = [(split, index) for split in counts for index in range(counts[split])]
    for split in counts:
        (folder / split).mkdir()

    def write(job: tuple[str, int]) -> tuple[str, _Labels]:
        split, index = job
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        scene = draw_scene(rng, width, height)
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(85, 96))]
        encoded = cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), quality)[1]
        (folder / split / _file_name(index)).write_bytes(encoded.tobytes())
        return split, (scene.labels, scene.boxes_xywh)

    pool = ThreadPoolExecutor(workers)
    try:
        for done, (split, labels) in enumerate(pool.map(write, jobs), start=1):
            records[split].append(labels)
            yield done
    finally:
        pool.shutdown(cancel_futures=True)  # so that an interruption does not draw the rest first
    for split, rows in records.items():
        text = json.dumps(_coco(rows, width, height))
        (folder / f"instances_{split}.json").write_text(text, encoding="utf-8")


def draw_scene(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Draw one picture of `width` x `height` pixels with up to eight objects (none in about 6% of them)."""
    canvas = _background(rng, width, height)
    light_angle = rng.uniform(-math.pi, 0)  # from above
    count = 0 if rng.random() < _EMPTY_SHARE else 1 + int(rng.choice(8, p=_OBJECT_COUNT_WEIGHTS / 100))
    layers = Layers(width, height)
    for _ in range(count):
        label = int(rng.integers(len(CLASS_NAMES)))
        sprite = draw_sprite(rng, label, _object_size(rng, height), light_angle)
        corner = layers.find_place(rng, sprite)
        if corner is not None:
            layers.add(label, sprite, corner)
            _paste(canvas, sprite, corner, light_angle, shadow=rng.uniform(0.25, 0.5))
    boxes_xywh = [layers.visible_box_xywh(index) for index in range(len(layers.labels))]
    return Scene(_camera(rng, canvas), layers.labels, boxes_xywh)


def _object_size(rng: np.random.Generator, height: int) -> float:
    smallest, largest = min(_SMALLEST_SIDE, height / 10), _LARGEST_SHARE * height
    return smallest * (largest / smallest) ** (rng.random() ** _SIZE_LEAN)


class Layers:
    """Which object each pixel shows, and so how much of every object is in sight."""

    def __init__(self, width: int, height: int) -> None:
        self.labels: list[int] = []
        self._whole_areas: list[int] = []
        self._owner = np.full((height, width), -1, np.int16)  # index of the object on top, -1 for the background

    def find_place(self, rng: np.random.Generator, sprite: Sprite) -> tuple[int, int] | None:
        """A corner (x, y) at which enough of this object and of all those beneath it stays in sight, or None."""
        height, width = self._owner.shape
        side = len(sprite.alpha)
        solid = sprite.alpha > 0.5
        for _ in range(_PLACEMENT_TRIES):
            x = int(rng.integers(-side // 4, width - side * 3 // 4 + 1))
            y = int(rng.integers(-side // 4, height - side * 3 // 4 + 1))
            in_image, in_sprite = _overlap(x, y, side, width, height)
            inside = solid[in_sprite]
            if inside.sum() < max(0.55 * solid.sum(), 1):
                continue
            hidden = np.bincount(self._owner[in_image][inside] + 1, minlength=len(self.labels) + 1)[1:]
            visible = np.bincount(self._owner.ravel() + 1, minlength=len(self.labels) + 1)[1:] - hidden
            if all(left >= _MIN_VISIBLE * area for left, area in zip(visible, self._whole_areas)):
                return x, y
        return None

    def add(self, label: int, sprite: Sprite, corner: tuple[int, int]) -> None:
        height, width = self._owner.shape
        solid = sprite.alpha > 0.5
        in_image, in_sprite = _overlap(*corner, len(solid), width, height)
        self._owner[in_image][solid[in_sprite]] = len(self.labels)
        self.labels.append(label)
        self._whole_areas.append(int(solid.sum()))

    def visible_box_xywh(self, index: int) -> _Box:
        x, y, width, height = cv2.boundingRect((self._owner == index).astype(np.uint8))
        return x, y, width, height


def _overlap(x: int, y: int, side: int, width: int, height: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Row and column slices of the image, and of a square patch at (x, y), where the two meet."""
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    in_image = slice(top, max(bottom, top)), slice(left, max(right, left))
    in_patch = slice(top - y, max(bottom, top) - y), slice(left - x, max(right, left) - x)
    return in_image, in_patch


def _paste(canvas: np.ndarray, sprite: Sprite, corner: tuple[int, int], light_angle: float, shadow: float) -> None:
    """Darken the canvas [3, H, W] by the object's soft shadow, then lay the object over it (in place)."""
    height, width = canvas.shape[1:]
    side = len(sprite.alpha)
    margin = max(2, side // 6)
    soft = cv2.copyMakeBorder(sprite.alpha, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    soft = cv2.blur(cv2.blur(soft, (margin, margin)), (margin, margin))
    x = corner[0] - margin - round(0.1 * side * math.cos(light_angle))
    y = corner[1] - margin - round(0.1 * side * math.sin(light_angle))
    (rows, columns), in_patch = _overlap(x, y, len(soft), width, height)
    canvas[:, rows, columns] *= 1 - shadow * soft[in_patch]

    (rows, columns), in_patch = _overlap(*corner, side, width, height)
    under = canvas[:, rows, columns]
    under += (sprite.color[:, in_patch[0], in_patch[1]] - under) * sprite.alpha[in_patch]


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """float32 [3, H, W] in about 0..1: two or three colours mixed by a pattern, under uneven light."""
    hue, bright = rng.uniform(0, 360), rng.uniform(0.3, 0.85)
    other_bright = np.clip(bright + rng.uniform(-0.3, 0.3), 0.15, 0.95)
    first = hsv(hue, rng.uniform(0.05, 0.5), bright)[:, None, None]
    second = hsv(hue + rng.uniform(-70, 70), rng.uniform(0.05, 0.55), other_bright)[:, None, None]
    third = hsv(rng.uniform(0, 360), rng.uniform(0.05, 0.45), rng.uniform(0.25, 0.85))[:, None, None]
    clouds = _octaves(rng, width, height)
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))](rng, width, height, clouds)
    canvas = first + (second - first) * pattern
    if rng.random() < 0.5:
        patches = np.clip((_octaves(rng, width, height) - rng.uniform(0.5, 0.62)) * 10, 0, 1) * rng.uniform(0.3, 0.8)
        canvas += (third - canvas) * patches.astype(np.float32)
    canvas *= _lighting(rng, width, height) * (0.85 + 0.3 * clouds)
    return canvas


def _octaves(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """float32 [H, W] in about 0..1, noise from a third of the picture down to a few pixels."""
    total, weight = np.zeros((height, width), np.float32), 0.0
    roughness = rng.uniform(0.4, 0.65)
    cell, amplitude = height / 2.5, 1.0
    while cell >= max(2.0, height / 160):
        total += amplitude * smooth_noise(rng, height, width, cell)
        weight += amplitude
        cell, amplitude = cell / 2.3, amplitude * roughness
    return np.clip((total / weight - 0.5) * 1.6 + 0.5, 0, 1)


def _lighting(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """float32 [H, W] around 1: a slope of brightness across the picture."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.35)
    x, y = _axes(width, height)
    return 1 + strength * (x * math.cos(angle) + y * math.sin(angle))


def _axes(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns [1, W] and rows [H, 1] in units of half the height, from the picture's centre."""
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / (height / 2)
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / (height / 2)
    return x[None, :], y[:, None]


def _cloudy(rng: np.random.Generator, width: int, height: int, clouds: np.ndarray) -> np.ndarray:
    return clouds


def _striped(rng: np.random.Generator, width: int, height: int, clouds: np.ndarray) -> np.ndarray:
    """Wavy stripes at any angle."""
    x, y = _axes(width, height)
    angle, frequency = rng.uniform(0, math.pi), rng.uniform(8, 40)
    phase = (x * math.cos(angle) + y * math.sin(angle)) * frequency + clouds * rng.uniform(0, 8)
    return 0.5 + rng.uniform(0.15, 0.45) * np.sin(phase)


def _blotched(rng: np.random.Generator, width: int, height: int, clouds: np.ndarray) -> np.ndarray:
    """Spots with clear edges."""
    spots = smooth_noise(rng, height, width, height / rng.uniform(6, 25))
    return 0.7 * np.clip((spots - 0.55) * 8, 0, 1) + 0.3 * clouds


def _tiled(rng: np.random.Generator, width: int, height: int, clouds: np.ndarray) -> np.ndarray:
    """Bricks or paving in staggered rows with darker joints."""
    x, y = _axes(width, height)
    rows, aspect = rng.uniform(3, 8), rng.uniform(1.0, 2.5)
    row = np.floor(y * rows)
    column = x * rows / aspect + 0.5 * (row % 2)
    joint = (np.abs((y * rows) % 1 - 0.5) > 0.46) | (np.abs(column % 1 - 0.5) > 0.5 - 0.04 / aspect)
    tone = np.sin(np.floor(column) * 12.9898 + row * 78.233) * 0.5 + 0.5  # a fixed pseudo-random tone a brick
    return np.where(joint, 1.0, 0.35 * tone + 0.35 * clouds).astype(np.float32)


_PATTERNS = (_cloudy, _striped, _blotched, _tiled)


def _camera(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] from the float canvas [3, H, W]: a touch of blur, then brightness noise."""
    blur, noise = rng.uniform(0.0, 0.8), rng.uniform(1.0, 5.0)
    if blur > 0.3:
        canvas = np.stack([cv2.GaussianBlur(plane, (0, 0), blur) for plane in canvas])
    grain = rng.standard_normal(canvas.shape[1:], dtype=np.float32) * noise + 0.5
    return cv2.merge(list(np.clip(canvas * 255 + grain, 0, 255).astype(np.uint8)))


def _file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _coco(rows: list[_Labels], width: int, height: int) -> dict:
    """The COCO dict of one split; image, annotation and category ids count from 1."""
    size = {"width": width, "height": height}
    images = [{"id": index + 1, "file_name": _file_name(index)} | size for index in range(len(rows))]
    found = [
        (index, label, box)
        for index, (labels, boxes) in enumerate(rows)
        for label, box in zip(labels, boxes, strict=True)
    ]
    annotations = [
        {
            "id": number,
            "image_id": index + 1,
            "category_id": label + 1,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, (index, label, box) in enumerate(found, start=1)
    ]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASS_NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}
