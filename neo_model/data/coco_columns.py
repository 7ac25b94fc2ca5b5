"""The columns of a COCO instances file: what is read of it, before anything is checked.

A file whose every value is of the right kind is parsed straight to columns by msgspec, which builds neither a
dictionary nor a polygon. Any other file, and any file where there is no msgspec, is parsed by Python's json, value by
value: that tells what is wrong, and takes what is merely unusual, such as an id written 3.0.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path

import numpy as np

from neo_model.data.annotation_file import content_of, file_bytes
from neo_model.data.columns import box_column, integer_column, number_column, text_column
from neo_model.utils import UserError
from neo_model.utils.collecting import without_collecting

try:
    from msgspec import Struct
    from msgspec.json import Decoder
except ModuleNotFoundError:
    Decoder = None


@dataclass(frozen=True, eq=False)
class CocoColumns:
    """Values in the order of the file: I images, C categories, A annotations.

    Attributes:
        image_ids: int64 [I].
        sizes_wh: int64 [I, 2].
        file_names: UTF-8, one of each image.
        category_ids: int64 [C].
        category_names: one of each category.
        ids, image_of, category_of: int64 [A], the ids of annotations and of what they belong to.
        boxes_xywh: float64 [A, 4].
        areas, crowd: float64 [A], NaN where there is none.
    """

    image_ids: np.ndarray
    sizes_wh: np.ndarray
    file_names: list[bytes]
    category_ids: np.ndarray
    category_names: list[str]
    ids: np.ndarray
    image_of: np.ndarray
    category_of: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


def read_columns(path: Path) -> CocoColumns:
    """Read a COCO instances file.

    Raises:
        UserError: it cannot be read or is none, it has no images or no classes, or a value is of the wrong kind.
    """
    text = file_bytes(path)
    with without_collecting():
        return _parsed_at_once(text) or _from_content(path, content_of(text, path))


if Decoder is not None:

    class _Image(Struct, gc=False):
        id: int
        width: int
        height: int
        file_name: str

    class _Category(Struct, gc=False):
        id: int
        name: str

    class _Annotation(Struct, gc=False):
        id: int
        image_id: int
        category_id: int
        bbox: tuple[float, float, float, float]
        area: float | None = None
        iscrowd: float | None = None

    class _File(Struct, gc=False):
        images: list[_Image]
        categories: list[_Category]
        annotations: list[_Annotation]


def _parsed_at_once(text: bytes) -> CocoColumns | None:
    """The columns of a file with nothing unusual in it, else None."""
    if Decoder is None:
        return None
    try:
        if not text.isascii():
            text.decode()  # msgspec does not look into text that it leaves out
        file = Decoder(_File).decode(text)
        images, categories, annotations = file.images, file.categories, file.annotations
        names, category_names = [image.file_name for image in images], [category.name for category in categories]
        if not (images and categories and all(names) and all(category_names)):
            return None
        sizes = [_integers(images, key) for key in ("width", "height")]
        boxes = chain.from_iterable(map(attrgetter("bbox"), annotations))
        return CocoColumns(
            image_ids=_integers(images, "id"),
            sizes_wh=np.stack(sizes, axis=1),
            file_names=[name.encode() for name in names],
            category_ids=_integers(categories, "id"),
            category_names=category_names,
            ids=_integers(annotations, "id"),
            image_of=_integers(annotations, "image_id"),
            category_of=_integers(annotations, "category_id"),
            boxes_xywh=np.fromiter(boxes, np.float64, 4 * len(annotations)).reshape(-1, 4),
            areas=np.array([row.area for row in annotations], dtype=np.float64),
            crowd=np.array([row.iscrowd for row in annotations], dtype=np.float64),
        )
    except (ValueError, RecursionError, OverflowError):  # of msgspec, of UTF-8, of an id beyond 64 bits
        return None


def _integers(rows: Iterable, key: str) -> np.ndarray:
    return np.fromiter(map(attrgetter(key), rows), np.int64, len(rows))


def _from_content(path: Path, content: dict) -> CocoColumns:
    """The columns of parsed JSON, or what is wrong with it."""
    images, categories, annotations = (content[key] for key in ("images", "categories", "annotations"))
    if not images:
        raise UserError(path, "holds no images", "give an annotation file with at least one image")
    if not categories:
        raise UserError(path, 'holds no classes ("categories" is empty)', "declare the classes")
    category_ids = integer_column(path, "category", categories, "id")
    category_names = text_column(path, "category", categories, "name")
    image_ids = integer_column(path, "image", images, "id")
    sizes = [integer_column(path, "image", images, key) for key in ("width", "height")]
    names = text_column(path, "image", images, "file_name")
    ids, image_of, category_of = (
        integer_column(path, "annotation", annotations, key) for key in ("id", "image_id", "category_id")
    )
    return CocoColumns(
        image_ids=image_ids,
        sizes_wh=np.stack(sizes, axis=1),
        file_names=[name.encode() for name in names],
        category_ids=category_ids,
        category_names=category_names,
        ids=ids,
        image_of=image_of,
        category_of=category_of,
        boxes_xywh=box_column(path, "annotation", annotations, "bbox"),
        areas=number_column(path, "annotation", annotations, "area", missing=math.nan),
        crowd=number_column(path, "annotation", annotations, "iscrowd", missing=math.nan),
    )
