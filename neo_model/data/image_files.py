"""Image files: all present and inside their folder, and decoded to RGB."""

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from neo_model.data.coco import CocoInstances, first_of
from neo_model.utils import UserError

# Pixels as stored, eight bits, three channels. The EXIF orientation is ignored, as COCO's boxes ignore it: a file whose
# boxes were drawn on the turned image has another size in its annotation and is refused by ``load_image``.
DECODING = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def check_images(folder: Path, instances: CocoInstances) -> None:
    """Look at the folder listings (not at each file: COCO has 118,000) for every image of the annotations.

    Raises:
        UserError: images are missing (their number and the first five), or a name leads out of the folder.
    """
    if not folder.is_dir():
        raise UserError(folder, "image folder is missing", "check the path")
    by_parent = defaultdict(list)
    for name in instances.file_names():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            _refuse_escape(instances.path, name)
        by_parent[path.parent].append(path)
    root = folder.resolve()
    missing = []
    for parent, paths in by_parent.items():
        links, files = _listing(folder / parent)
        if not (root / parent).resolve().is_relative_to(root):
            _refuse_escape(instances.path, str(paths[0]))
        for path in paths:
            if path.name in links and not (root / path).resolve().is_relative_to(root):
                _refuse_escape(instances.path, str(path))
            if path.name not in files:
                missing.append(str(path))
    if missing:
        cause = f"{len(missing)} of {len(instances)} images of {instances.path} are missing: {first_of(missing)}"
        raise UserError(folder, cause, "check the image folder, or remove these images from the annotations")


def _listing(folder: Path) -> tuple[set[str], set[str]]:
    """Names in a folder that are links, and all names that are not folders."""
    if not folder.is_dir():
        return set(), set()
    with os.scandir(folder) as entries:
        entries = list(entries)
    links = {entry.name for entry in entries if entry.is_symlink()}
    return links, {entry.name for entry in entries if entry.is_file()}


def _refuse_escape(annotations: Path, name: str) -> None:
    raise UserError(annotations, f"file_name {name!r} leads out of the image folder", "name files inside it")


def decode(path: Path, *, remedy: str) -> np.ndarray:
    """A file as RGB uint8 [H, W, 3], whatever its channels and depth.

    Raises:
        UserError: the file cannot be read or is no image; with this ``remedy``.
    """
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), DECODING)
    except (OSError, cv2.error) as error:
        cause = getattr(error, "strerror", None) or "no image in it, or a forged size"
        raise UserError(path, f"image cannot be read ({cause})", remedy) from None
    if image is None:
        raise UserError(path, "is not an image that can be decoded", remedy)
    return image


def load_image(path: Path, size_wh: tuple[int, int]) -> np.ndarray:
    """Decode an annotated file to RGB uint8 [H, W, 3].

    Args:
        path: the file.
        size_wh: width and height in pixels that its annotation claims.

    Raises:
        UserError: the file is missing, is no image, or has another size.
    """
    image = decode(path, remedy="restore it, or take it out of the annotations")
    height, width = image.shape[:2]
    if (width, height) != tuple(size_wh):
        wanted = f"{size_wh[0]}x{size_wh[1]}"
        turned = " (turned by its EXIF orientation, which is not used)" if (height, width) == tuple(size_wh) else ""
        cause = f"is {width}x{height}, its annotation says {wanted}{turned}"
        raise UserError(path, cause, "correct the annotation, or write the image again in the size it is shown in")
    return image
