"""A COCO instances file as a handful of flat arrays, checked and repaired.

Flat arrays and offsets instead of a dictionary per box: COCO's 860,000 training boxes take 50 MB, and worker processes
share those pages with the main one, since nothing in them carries a reference count.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neo_model.data.coco_columns import CocoColumns, read_columns
from neo_model.data.findings import Finding, act_on, findings_of, first_of
from neo_model.utils import UserError
from neo_model.utils.errors import CONTROL_CHARACTERS

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
        findings: what is not right with the file, and was repaired.
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
    findings: list[Finding]

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
        return np.flatnonzero(self._num_objects())[:count]

    def crowded(self, num_queries: int) -> list[Finding]:
        """Images in which a model of so many queries cannot find all."""
        ids = self.image_ids[self._num_objects() > num_queries]
        what = f"images with more boxes than the {num_queries} queries of the model (image ids)"
        return findings_of(self.path, what, ids, then=f"at most {num_queries} of each are learnt and found")

    def _num_objects(self) -> np.ndarray:
        """Boxes of each image, crowds not counted [N]."""
        before = np.concatenate([[0], np.cumsum(~self.crowd)])
        return np.diff(before[self.offsets])

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
    instances = examine_coco(path)
    act_on(instances.findings)
    return instances


def examine_coco(path: str | Path) -> CocoInstances:
    """Like ``read_coco``, but what is wrong is only told: ``findings`` may hold some that stop training.

    Annotations that such findings are about are left out.

    Raises:
        UserError: the file cannot be read for what it should be.
    """
    path = Path(path)
    columns = read_columns(path)
    image_ids, sizes_wh, names = columns.image_ids, columns.sizes_wh, columns.file_names
    classes, findings = _read_classes(path, columns)
    findings += _doubles(path, "image id", image_ids)
    flat = image_ids[(sizes_wh < 1).any(axis=1)]
    findings += _stopping(path, "images with a width or height under 1", flat, "correct their size")
    rows, found = _read_annotations(path, columns, classes)
    return CocoInstances(
        path=path,
        classes=classes,
        image_ids=image_ids,
        sizes_wh=sizes_wh.astype(np.int32),
        name_bytes=b"".join(names),
        name_offsets=np.cumsum([0, *map(len, names)], dtype=np.int64),
        **rows,
        findings=findings + found,
    )


def _read_classes(path: Path, columns: CocoColumns) -> tuple[Classes, list[Finding]]:
    category_ids, names = columns.category_ids, columns.category_names
    if hostile := [repr(name) for name in names if CONTROL_CHARACTERS.search(name)]:
        cause = f"holds categories whose name has control characters: {first_of(hostile)}"
        raise UserError(path, cause, "correct them")
    order = np.argsort(category_ids)
    classes = Classes([names[position] for position in order], category_ids[order].tolist())
    return classes, _doubles(path, "category id", category_ids)


def _read_annotations(
    path: Path, columns: CocoColumns, classes: Classes
) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """The fields of ``CocoInstances`` that have a row a box, sorted by image, and their offsets."""
    image_ids, sizes_wh = columns.image_ids, columns.sizes_wh
    ids, of_image, of_category, boxes_xywh = columns.ids, columns.image_of, columns.category_of, columns.boxes_xywh
    areas, crowd, findings = _fill_in(path, columns)
    images, is_of_image = _positions(of_image, image_ids)
    labels, is_of_class = _positions(of_category, np.asarray(classes.category_ids))
    is_finite = np.isfinite(boxes_xywh).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        reach = np.stack([_box_areas(boxes_xywh), *(boxes_xywh[:, :2] + boxes_xywh[:, 2:]).T], axis=1)
    is_endless = is_finite & ~np.isfinite(reach).all(axis=1)
    findings += _doubles(path, "annotation id", ids)
    findings += _unknown(path, "image_id", ids, of_image, is_of_image)
    findings += _unknown(path, "category_id", ids, of_category, is_of_class)
    findings += _stopping(path, "boxes with NaN or infinity (annotation ids)", ids[~is_finite], "correct them")
    findings += _stopping(path, "boxes of infinite area or reach (annotation ids)", ids[is_endless], "correct them")
    rows = np.flatnonzero(is_of_image & is_of_class & is_finite & ~is_endless)
    kept, found = _check_boxes(path, ids[rows], boxes_xywh[rows], sizes_wh[images[rows]])
    rows = rows[kept]
    order = rows[np.argsort(images[rows], kind="stable")]
    ids, shifted = _positive(path, ids)
    counts = np.bincount(images[order], minlength=len(image_ids))
    fields = {
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
        "boxes_xywh": boxes_xywh[order],
        "areas": areas[order],
        "crowd": crowd[order],
        "labels": labels[order],
        "annotation_ids": ids[order],
    }
    return fields, findings + found + shifted


def _positions(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each value stands among the known ids, and whether it is one of them at all."""
    order = np.argsort(known)
    in_order = np.minimum(np.searchsorted(known[order], values), len(known) - 1)
    return order[in_order], known[order][in_order] == values


def _unknown(path: Path, key: str, ids: np.ndarray, values: np.ndarray, is_known: np.ndarray) -> list[Finding]:
    what = f"annotations with unknown {key} {first_of(np.unique(values[~is_known]))} (annotation ids)"
    return _stopping(path, what, ids[~is_known], "correct or remove them")


def _fill_in(path: Path, columns: CocoColumns) -> tuple[np.ndarray, np.ndarray, list[Finding]]:
    """Areas and crowd flags, filled in where missing: width times height, and not a crowd."""
    ids, boxes_xywh, findings = columns.ids, columns.boxes_xywh, []
    areas, crowd = columns.areas.copy(), columns.crowd.copy()
    for key, column, value in (("area", areas, "width x height"), ("iscrowd", crowd, "0")):
        missing = ~np.isfinite(column)
        what = f'annotations without "{key}" (annotation ids)'
        findings += findings_of(path, what, ids[missing], then=f"{value} is filled in")
        column[missing] = _box_areas(boxes_xywh[missing]) if key == "area" else 0.0
    return areas, crowd != 0, findings


def _box_areas(boxes_xywh: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are refused
        return boxes_xywh[:, 2] * boxes_xywh[:, 3]


def _positive(path: Path, ids: np.ndarray) -> tuple[np.ndarray, list[Finding]]:
    wrong = ids[ids < 1]
    what = "annotation ids under 1, of which COCO's evaluation ignores 0"
    shifted = ids - wrong.min() + 1 if len(wrong) else ids
    return shifted, findings_of(path, what, wrong, then="all annotation ids are shifted")


def _check_boxes(
    path: Path, ids: np.ndarray, boxes_xywh: np.ndarray, sizes_wh: np.ndarray
) -> tuple[np.ndarray, list[Finding]]:
    """Which boxes have an area inside their image, and what is to be said of the others and of those cut."""
    flat = (boxes_xywh[:, 2:] <= 0).any(axis=1)
    corners = clipped_xyxy(boxes_xywh, sizes_wh)
    outside = (corners[:, 2:] <= corners[:, :2]).any(axis=1) & ~flat
    overhang = np.maximum(-boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:] - sizes_wh).max(axis=1, initial=0)
    cut = (overhang > ROUNDING_PIXELS) & ~outside & ~flat
    findings = []
    for culprits, what, then in (
        (flat, "boxes without width or height", "dropped"),
        (outside, "boxes outside their image", "dropped"),
        (cut, "boxes partly outside their image", "clipped"),
    ):
        findings += findings_of(path, f"{what} (annotation ids)", ids[culprits], then=then)
    return ~(flat | outside), findings


def _doubles(path: Path, what: str, ids: np.ndarray) -> list[Finding]:
    values, counts = np.unique(ids, return_counts=True)
    return _stopping(path, f"{what}s that occur more than once", values[counts > 1], "give each its own id")


def _stopping(path: Path, what: str, culprits: np.ndarray, remedy: str) -> list[Finding]:
    return findings_of(path, what, culprits, then=remedy, stops=True)
