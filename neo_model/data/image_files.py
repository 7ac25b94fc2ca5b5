"""Image files: all present and inside their folder, and decoded to RGB."""

import errno
import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from neo_model.data import encoded_images
from neo_model.data.coco import CocoInstances
from neo_model.data.findings import Finding, act_on, findings_of
from neo_model.utils import UserError
from neo_model.utils.errors import CONTROL_CHARACTERS
from neo_model.utils.files import is_folder, refused_to_read

# Pixels as stored, eight bits, three channels.
DECODING = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# The same at a part of each side. OpenCV has these in BGR only.
REDUCED_DECODING = {
    factor: getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}") | cv2.IMREAD_IGNORE_ORIENTATION for factor in (2, 4, 8)
}

# An image of this size takes 0.8 GB; a header that claims more is forged, or the image needs cutting up anyway.
MOST_PIXELS = 2**28


UNCHANGED = "(which a run that has begun needs unchanged)"
RESTORE = f"restore it, or take it out of the annotations {UNCHANGED}"
# Of a file, for ``inspect_image``: most headers and all proper ends.
HEAD_BYTES, TAIL_BYTES = 2**15, 2**12


class DamagedImage(UserError):
    """An image file whose content is broken. Training can do with another one in its place."""


class WrongSize(UserError):
    """An image file of another size than its annotation says."""

    found = "files of another size than their annotation says"


class TurnedByExif(WrongSize):
    """An annotated image file with an EXIF orientation.

    Some tools draw boxes on the pixels as stored, others on the image as it is shown, and the sizes that they write do
    not tell which: half a turn keeps them, and some write the stored one beside boxes of the other.
    """

    found = "files that their EXIF orientation turns"


def check_images(folder: Path, instances: CocoInstances) -> None:
    """Look for every image of the annotations in the folder listings, and whether it may be read.

    No file is opened: COCO has 118,000, and to ask for leave to read takes 6 us each.

    Raises:
        UserError: images are missing or may not be read (their number and the first five), or a name leads out of the
            folder.
    """
    act_on(examine_folder(folder, instances)[0])


def examine_folder(folder: Path, instances: CocoInstances) -> tuple[list[Finding], list[int]]:
    """Like ``check_images``, but what is wrong is only told.

    Returns:
        what is wrong, and the indices of the images that are there, inside the folder and may be read.

    Raises:
        UserError: the folder is missing, or it or one in it may not be read.
    """
    if not is_folder(folder):
        raise UserError(folder, "image folder is missing", "check the path")
    by_parent, nameless, outside, missing = defaultdict(list), [], [], []
    unreadable, there = [], []
    for index, name in enumerate(instances.file_names()):
        path = PurePosixPath(name)
        if CONTROL_CHARACTERS.search(name):
            nameless.append(repr(name))
        elif path.is_absolute() or ".." in path.parts:
            outside.append(repr(name))
        else:
            by_parent[path.parent].append((index, path))
    root = os.path.realpath(folder)
    for parent, entries in by_parent.items():
        links, files = _listing(folder / parent)
        is_inside = _lies_in(root, parent)
        for index, path in entries:
            if not is_inside or (path.name in links and not _lies_in(root, path)):
                outside.append(repr(str(path)))
            elif path.name not in files:
                missing.append(str(path))
            elif not os.access(os.path.join(root, path), os.R_OK):
                unreadable.append(str(path))
            else:
                there.append(index)
    of_all = f"of {len(instances)} images of {instances.path}"
    remedy = f"or remove these images from the annotations {UNCHANGED}"
    findings = _stopping(instances.path, "images whose file_name holds control characters", nameless, "correct it")
    findings += _stopping(
        instances.path, "images whose file_name leads out of the image folder", outside, "name files inside it"
    )
    findings += _stopping(folder, f"{of_all} are missing", missing, f"check the image folder, {remedy}")
    findings += _stopping(folder, f"{of_all} may not be read", unreadable, f"correct their permissions, {remedy}")
    return findings, there


def _stopping(where: Path, what: str, culprits: list[str], remedy: str) -> list[Finding]:
    return findings_of(where, what, culprits, then=remedy, stops=True)


def _lies_in(root: str, path: PurePosixPath) -> bool:
    """Whether a path below ``root`` is still there once its links are followed; one that goes in circles is."""
    return Path(os.path.realpath(os.path.join(root, path))).is_relative_to(root)


def _listing(folder: Path) -> tuple[set[str], set[str]]:
    """Names in a folder that are links, and all names that lead to files.

    Raises:
        UserError: the folder may not be read.
    """
    if not is_folder(folder):
        return set(), set()
    try:
        with os.scandir(folder) as entries:
            entries = list(entries)
        links = {entry.name for entry in entries if entry.is_symlink()}
        # Of a link that goes in circles the entry's own is_file raises; of others it asks the disk for nothing.
        files = {entry.name for entry in entries if (os.path.isfile(entry) if entry.name in links else entry.is_file())}
    except OSError as error:
        raise refused_to_read(folder, error) from error
    return links, files


def decode(
    path: Path, *, remedy: str, expected_wh: tuple[int, int] | None = None, reduction: int = 1
) -> np.ndarray:
    """A file as RGB uint8 [H, W, 3], whatever its channels and depth.

    The header is read first: nothing is allocated for a forged one. A PNG's checksums are left to the decoder, which
    reads them anyway and gives nothing for a file with a wrong one.

    Args:
        path: the file.
        remedy: what to do about a bad file.
        expected_wh: width and height in pixels that an annotated file must have, and no EXIF orientation; that of any
            other is ignored.
        reduction: 2, 4 or 8 decode a JPEG whose sides it divides to this part of each side: every 8x8 block from its
            lowest frequencies alone.

    Raises:
        DamagedImage: it is no image of a format whose size is known beforehand, not all of one, or lies on a defective
            part of the disk.
        UserError: it cannot be read, has another size or more than ``MOST_PIXELS``.
    """
    encoded = _read_encoded(path, remedy, expected_wh)
    if encoded[:3] != encoded_images.JPEG_START:
        reduction = 1
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), REDUCED_DECODING.get(reduction, DECODING))
    except cv2.error:  # of a size that OpenCV refuses, for example
        image = None
    if image is None:
        raise DamagedImage(path, encoded_images.damage(encoded) or "is not an image that can be decoded", remedy)
    _check_size(path, (image.shape[1] * reduction, image.shape[0] * reduction), expected_wh, remedy)
    return image if reduction == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _read_encoded(path: Path, remedy: str, expected_wh: tuple[int, int] | None) -> bytes:
    """All of a file in which nothing is wrong that its header and, of a JPEG or PNG, its end tell; see ``decode``."""
    try:
        encoded = path.read_bytes()
    except OSError as error:
        kind = DamagedImage if error.errno == errno.EIO else UserError
        raise kind(path, f"image cannot be read ({error.strerror})", remedy) from None
    claimed_wh = encoded_images.size_wh(encoded)
    if claimed_wh is not None:
        _check_orientation(path, encoded, claimed_wh, expected_wh)
        _check_size(path, claimed_wh, expected_wh, remedy)
    damage = encoded_images.damage(encoded, checksums=False)
    if damage is None and claimed_wh is None:  # OpenCV reads more, and would allocate what they claim
        damage = "is not an image that can be read (JPEG, PNG, BMP, TIFF, WebP)"
    if damage is not None:
        raise DamagedImage(path, damage, remedy)
    return encoded


def reduction_for(source_wh: tuple[int, int], needed_wh: tuple[float, float]) -> int:
    """How far to reduce an image so that it has at least the needed width and height: 1, 2, 4 or 8.

    Only what divides both sides: the geometry stays exact.
    """
    for factor in sorted(REDUCED_DECODING, reverse=True):
        if all(side % factor == 0 and side >= factor * least for side, least in zip(source_wh, needed_wh, strict=True)):
            return factor
    return 1


def _check_orientation(
    path: Path, encoded: bytes, stored_wh: tuple[int, int], expected_wh: tuple[int, int] | None
) -> None:
    orientation = encoded_images.orientation(encoded)
    if expected_wh is None or orientation == encoded_images.UPRIGHT:
        return
    shown_wh = stored_wh[::-1] if orientation in encoded_images.TURNED_BY_A_QUARTER else stored_wh
    stored, shown, expected = (f"{width}x{height}" for width, height in (stored_wh, shown_wh, expected_wh))
    cause = f"is stored as {stored} and shown as {shown}, turned by its EXIF orientation {orientation}"
    cause += f", its annotation says {expected}, and its boxes may be drawn on either"
    raise TurnedByExif(path, cause, f"write the image again as its boxes need it, without that orientation {UNCHANGED}")


def _check_size(path: Path, found_wh: tuple[int, int], expected_wh: tuple[int, int] | None, remedy: str) -> None:
    found = f"{found_wh[0]}x{found_wh[1]}"
    if expected_wh is not None and tuple(expected_wh) != found_wh:
        cause = f"is {found}, its annotation says {expected_wh[0]}x{expected_wh[1]}"
        raise WrongSize(path, cause, f"write the image again in that size, or correct the annotations {UNCHANGED}")
    if found_wh[0] * found_wh[1] > MOST_PIXELS:
        raise UserError(path, f"claims to be {found}, more than {MOST_PIXELS:,} pixels", remedy)


def load_image(path: Path, size_wh: tuple[int, int], *, reduction: int = 1) -> np.ndarray:
    """Decode an annotated file to RGB uint8 [H, W, 3].

    Args:
        path: the file.
        size_wh: width and height in pixels that its annotation claims.
        reduction: see ``decode``.

    Raises:
        DamagedImage: its content is broken.
        UserError: the file is missing, has another size, or an EXIF orientation.
    """
    return decode(path, remedy=RESTORE, expected_wh=tuple(size_wh), reduction=reduction)


def inspect_image(path: Path, size_wh: tuple[int, int], *, decoding: bool = True) -> None:
    """Raise what ``load_image`` would, going by the beginning and the end of a JPEG or PNG.

    What these do not prove sound, and other formats, are decoded; without ``decoding`` only what has no readable size.
    """
    head, tail = _ends(path)
    claimed_wh = encoded_images.size_wh(head)
    if claimed_wh is not None and encoded_images.is_surely_whole(head, tail):
        _check_orientation(path, head + tail, claimed_wh, tuple(size_wh))
        _check_size(path, claimed_wh, tuple(size_wh), RESTORE)
    elif decoding or encoded_images.size_wh(_read_encoded(path, RESTORE, tuple(size_wh))) is None:
        load_image(path, size_wh)


def _ends(path: Path) -> tuple[bytes, bytes]:
    """Beginning and end of a file, all of it as the beginning of a small one; nothing of one that cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(len(head), size - TAIL_BYTES))
            return head, file.read(TAIL_BYTES)
    except OSError:
        return b"", b""
