"""A COCO instances file as a handful of flat arrays, checked and repaired.

Flat arrays and offsets instead of a dictionary per box: COCO's 860,000 training boxes take 50 MB, and worker processes
share those pages with the main one, since nothing in them carries a reference count.
"""

import hashlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neo_model.data.annotation_file import read_annotation_file
from neo_model.data.columns import box_column, integer_column, number_column, text_column
from neo_model.utils import UserError

logger = logging.getLogger(__name__)

# Annotation tools round to a pixel or a part of it; only what reaches further outside is worth a warning.
ROUNDING_PIXELS = 1.0


@dataclass(frozen=True)
class Classes:
    """What a label means: label i is ``names[i]`` and has ``category_ids[i]`` in the annotation file."""

    names: list[str]
    category_ids: list[int]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class CocoInstances:
    """Images in file order and their boxes; the boxes of image i are rows ``offsets[i]`` to ``offsets[i + 1]``.

    Attributes:
        path: the annotation file.
        classes: classes in order of category id, also those without boxes.
        image_ids: int64 [N].
        sizes_wh: int32 [N, 2], width and height of each image in pixels, as the file says.
        name_bytes, name_offsets: the file names in UTF-8, one after the other, and where each begins (int64 [N + 1]).
        offsets: int64 [N + 1].
        boxes_xywh: float64 [M, 4] in pixels as written, not clipped.
        areas: float64 [M] in square pixels.
        crowd: bool [M].
        labels: int64 [M], 0 to C - 1.
        annotation_ids: int64 [M], all positive.
    """

    path: Path
    classes: Classes
    image_ids: np.ndarray
    sizes_wh: np.ndarray
    name_bytes: bytes
    name_offsets: np.ndarray
    offsets: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    labels: np.ndarray
    annotation_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def file_name(self, index: int) -> str:
        """Name of an image, relative to the image folder."""
        return self.name_bytes[self.name_offsets[index] : self.name_offsets[index + 1]].decode()

    def file_names(self) -> list[str]:
        """All names, in order."""
        return [self.file_name(index) for index in range(len(self))]

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What training sees of an image: clipped boxes_xyxy float32 [n, 4] and labels int64 [n], no crowds."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        single = ~self.crowd[rows]
        boxes_xyxy = clipped_xyxy(self.boxes_xywh[rows][single], self.sizes_wh[index])
        return boxes_xyxy.astype(np.float32), self.labels[rows][single]

    def indices_with_objects(self, count: int) -> np.ndarray:
        """The first ``count`` images that have a box which is not a crowd."""
        before = np.concatenate([[0], np.cumsum(~self.crowd)])
        return np.flatnonzero(before[self.offsets[1:]] > before[self.offsets[:-1]])[:count]

    def fingerprint(self) -> dict[str, int | str]:
        """Numbers of images and boxes and a SHA-256 of all that is known of them, wherever the files lie."""
        digest = hashlib.sha256(repr(self.classes).encode())
        columns = (self.image_ids, self.sizes_wh, self.name_offsets, self.offsets, self.boxes_xywh, self.areas)
        for content in (self.name_bytes, *columns, self.crowd, self.labels, self.annotation_ids):
            digest.update(np.ascontiguousarray(content) if isinstance(content, np.ndarray) else content)
        return {"images": len(self), "boxes": len(self.labels), "sha256": digest.hexdigest()}

    def ground_truth(self, indices: np.ndarray | None = None) -> dict:
        """The COCO dictionary of these images (all by default) for an evaluator: crowds in, every field present."""
        indices = range(len(self)) if indices is None else indices
        images, annotations = [], []
        for index in indices:
            image_id = int(self.image_ids[index])
            width, height = self.sizes_wh[index].tolist()
            images.append({"id": image_id, "file_name": self.file_name(index), "width": width, "height": height})
            for row in range(self.offsets[index], self.offsets[index + 1]):
                annotations.append({
                    "id": int(self.annotation_ids[row]),
                    "image_id": image_id,
                    "category_id": self.classes.category_ids[self.labels[row]],
                    "bbox": self.boxes_xywh[row].tolist(),
                    "area": float(self.areas[row]),
                    "iscrowd": int(self.crowd[row]),
                })
        pairs = zip(self.classes.category_ids, self.classes.names, strict=True)
        categories = [{"id": category_id, "name": name} for category_id, name in pairs]
        return {"images": images, "annotations": annotations, "categories": categories}


def clipped_xyxy(boxes_xywh: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] as corners, clipped to images of ``size_wh`` [2] or [n, 2] pixels."""
    low = np.clip(boxes_xywh[:, :2], 0, size_wh)
    high = np.clip(boxes_xywh[:, :2] + boxes_xywh[:, 2:], 0, size_wh)
    return np.concatenate([low, high], axis=1)


def read_coco(path: str | Path) -> CocoInstances:
    """Read, check and repair a COCO instances file.

    Boxes without area and boxes wholly outside their image are dropped, missing "area" and "iscrowd" are filled in, and
    ids are shifted when one is not positive; each kind of repair is logged once with its count.

    Raises:
        UserError: not a COCO file, no images or classes, ids that are unknown, double or not integers, or coordinates
            that are not finite numbers.
    """
    path = Path(path)
    content = read_annotation_file(path)
    if not content["images"]:
        raise UserError(path, "holds no images", "give an annotation file with at least one image")
    classes = _read_classes(path, content["categories"])
    image_ids = integer_column(path, "image", content["images"], "id")
    refuse_doubles(path, "image id", image_ids)
    sizes_wh = np.stack([integer_column(path, "image", content["images"], key) for key in ("width", "height")], axis=1)
    refuse(path, image_ids[(sizes_wh < 1).any(axis=1)], "images with a width or height under 1", "correct their size")
    names = [name.encode() for name in text_column(path, "image", content["images"], "file_name")]
    rows = _read_annotations(path, content["annotations"], classes, image_ids, sizes_wh)
    return CocoInstances(
        path=path,
        classes=classes,
        image_ids=image_ids,
        sizes_wh=sizes_wh.astype(np.int32),
        name_bytes=b"".join(names),
        name_offsets=np.cumsum([0, *map(len, names)], dtype=np.int64),
        **rows,
    )


def _read_classes(path: Path, categories: list[dict]) -> Classes:
    if not categories:
        raise UserError(path, 'holds no classes ("categories" is empty)', "declare the classes")
    category_ids = integer_column(path, "category", categories, "id")
    refuse_doubles(path, "category id", category_ids)
    names = text_column(path, "category", categories, "name")
    order = np.argsort(category_ids)
    return Classes([names[position] for position in order], category_ids[order].tolist())


def _read_annotations(
    path: Path, annotations: list[dict], classes: Classes, image_ids: np.ndarray, sizes_wh: np.ndarray
) -> dict[str, np.ndarray]:
    """The fields of ``CocoInstances`` that have a row a box, sorted by image, and their offsets."""
    ids = integer_column(path, "annotation", annotations, "id")
    refuse_doubles(path, "annotation id", ids)
    images = _positions(path, ids, integer_column(path, "annotation", annotations, "image_id"), image_ids, "image_id")
    category_ids = integer_column(path, "annotation", annotations, "category_id")
    labels = _positions(path, ids, category_ids, np.asarray(classes.category_ids), "category_id")
    boxes_xywh = box_column(path, "annotation", annotations, "bbox")
    broken = ~np.isfinite(boxes_xywh).all(axis=1)
    refuse(path, ids[broken], "boxes with NaN or infinity (annotation ids)", "correct them")
    if len(ids) and ids.min() < 1:
        logger.warning("%s: ids under 1 (COCO's evaluation ignores annotation 0): all annotation ids shifted", path)
        ids = ids - ids.min() + 1
    areas, crowd = _read_optional(path, annotations, boxes_xywh)
    kept = _kept_boxes(path, boxes_xywh, sizes_wh[images])
    order = np.flatnonzero(kept)[np.argsort(images[kept], kind="stable")]
    counts = np.bincount(images[order], minlength=len(image_ids))
    return {
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
        "boxes_xywh": boxes_xywh[order],
        "areas": areas[order],
        "crowd": crowd[order],
        "labels": labels[order],
        "annotation_ids": ids[order],
    }


def _positions(path: Path, ids: np.ndarray, values: np.ndarray, known: np.ndarray, key: str) -> np.ndarray:
    """Where each value stands among the known ids."""
    order = np.argsort(known)
    places = order[np.minimum(np.searchsorted(known, values, sorter=order), len(known) - 1)]
    wrong = known[places] != values
    if wrong.any():
        unknown = f"unknown {key} {first_of(np.unique(values[wrong]))}"
        refuse(path, ids[wrong], f"annotations with {unknown} (annotation ids)", "correct or remove them")
    return places


def _read_optional(path: Path, annotations: list[dict], boxes_xywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas and crowd flags, filled in where missing: width times height, and not a crowd."""
    areas = number_column(path, "annotation", annotations, "area", missing=math.nan)
    crowd = number_column(path, "annotation", annotations, "iscrowd", missing=math.nan)
    for key, column, filling in (("area", areas, boxes_xywh[:, 2] * boxes_xywh[:, 3]), ("iscrowd", crowd, 0.0)):
        missing = ~np.isfinite(column)
        if missing.any():
            logger.warning('%s: %d annotations without "%s", filled in', path, missing.sum(), key)
            np.copyto(column, filling, where=missing)
    return areas, crowd != 0


def _kept_boxes(path: Path, boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Which boxes have an area inside their image, with a warning a kind for the others and for those cut."""
    flat = (boxes_xywh[:, 2:] <= 0).any(axis=1)
    corners = clipped_xyxy(boxes_xywh, sizes_wh)
    outside = (corners[:, 2:] <= corners[:, :2]).any(axis=1) & ~flat
    overhang = np.maximum(-boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:] - sizes_wh).max(axis=1, initial=0)
    cut = (overhang > ROUNDING_PIXELS) & ~outside & ~flat
    for count, what in (
        (flat.sum(), "boxes without width or height dropped"),
        (outside.sum(), "boxes outside their image dropped"),
        (cut.sum(), "boxes partly outside their image clipped for training"),
    ):
        if count:
            logger.warning("%s: %d %s", path, count, what)
    return ~(flat | outside)


def refuse_doubles(path: Path, what: str, ids: np.ndarray) -> None:
    """Raise if an id occurs twice."""
    values, counts = np.unique(ids, return_counts=True)
    refuse(path, values[counts > 1], f"{what}s that occur more than once", "give each its own id")


def refuse(path: Path, culprits, what: str, remedy: str) -> None:
    """Raise if there are culprits, with their number and the first five."""
    if len(culprits):
        raise UserError(path, f"{len(culprits)} {what}: {first_of(culprits)}", remedy)


def first_of(values) -> str:
    """The first five, as text."""
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
