"""Image files: all present and inside their folder, and decoded to RGB."""

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from neo_model.data import encoded_images
from neo_model.data.coco import CocoInstances, first_of
from neo_model.utils import UserError

# Pixels as stored, eight bits, three channels. The EXIF orientation is ignored, as COCO's boxes ignore it: a file whose
# boxes were drawn on the turned image has another size in its annotation and is refused by ``load_image``.
DECODING = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

# An image of this size takes 0.8 GB; a header that claims more is forged, or the image needs cutting up anyway.
MOST_PIXELS = 2**28


class DamagedImage(UserError):
    """An image file whose content is broken. Training can do with another one in its place."""


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


def decode(path: Path, *, remedy: str, expected_wh: tuple[int, int] | None = None) -> np.ndarray:
    """A file as RGB uint8 [H, W, 3], whatever its channels and depth.

    The header is read first: nothing is allocated for a forged one. A PNG's checksums are left to the decoder, which
    reads them anyway and gives nothing for a file with a wrong one.

    Args:
        path: the file.
        remedy: what to do about a bad file.
        expected_wh: width and height in pixels that it must have.

    Raises:
        DamagedImage: it is no image, or not all of one.
        UserError: it cannot be read, has another size or more than ``MOST_PIXELS``.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise UserError(path, f"image cannot be read ({error.strerror})", remedy) from None
    claimed_wh = encoded_images.size_wh(encoded)
    if claimed_wh is not None:
        _check_size(path, claimed_wh, expected_wh, remedy)
    damage = encoded_images.damage(encoded, checksums=False)
    if damage is not None:
        raise DamagedImage(path, damage, remedy)
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), DECODING)
    except cv2.error:  # of a forged size in one of the rarer formats, for example
        image = None
    if image is None:
        raise DamagedImage(path, encoded_images.damage(encoded) or "is not an image that can be decoded", remedy)
    _check_size(path, (image.shape[1], image.shape[0]), expected_wh, remedy)
    return image


def _check_size(path: Path, found_wh: tuple[int, int], expected_wh: tuple[int, int] | None, remedy: str) -> None:
    found = f"{found_wh[0]}x{found_wh[1]}"
    if expected_wh is not None and tuple(expected_wh) != found_wh:
        turned = " (turned by its EXIF orientation, which is not used)" if found_wh[::-1] == tuple(expected_wh) else ""
        cause = f"is {found}, its annotation says {expected_wh[0]}x{expected_wh[1]}{turned}"
        raise UserError(path, cause, "correct the annotation, or write the image again in the size it is shown in")
    if found_wh[0] * found_wh[1] > MOST_PIXELS:
        raise UserError(path, f"claims to be {found}, more than {MOST_PIXELS:,} pixels", remedy)


def load_image(path: Path, size_wh: tuple[int, int]) -> np.ndarray:
    """Decode an annotated file to RGB uint8 [H, W, 3].

    Args:
        path: the file.
        size_wh: width and height in pixels that its annotation claims.

    Raises:
        DamagedImage: its content is broken.
        UserError: the file is missing or has another size.
    """
    return decode(path, remedy="restore it, or take it out of the annotations", expected_wh=tuple(size_wh))
