"""``data.cache=ram`` and ``data.cache=disk``: training images are decoded once, at the largest size training needs.

Decoding is two thirds of what a sample costs at 1920x1080. The price is memory or disk: 6.2 MB an image of that size.
"""

import fcntl
import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from neo_model.utils import UserError
from neo_model.utils.files import cache_folder
from neo_model.utils.memory import available_memory

logger = logging.getLogger(__name__)

CacheKind = Literal["ram", "disk"]

# Goes into the names of files: raise it when the same image would be decoded to other bytes.
FORMAT = 1
# The training itself needs memory, and the kernel some for the files it reads.
LARGEST_PART_OF_RAM = 0.8
PAGE = mmap.PAGESIZE
UNFINISHED = ".unfinished-"


class ImageCache:
    """Images uint8 [H, W, 3] of sizes known from the start, in one mapping that all workers of a run share.

    A byte an image says whether it is there. It is set after the image's last pixel, and in a file only once the disk
    has the pixels: neither a killed process nor a power cut leaves part of an image that is taken for all of it.

    Args:
        sizes_wh: width and height in pixels, int [n, 2].
        memory: of ``num_bytes(sizes_wh)``, zero where nothing has been kept yet.
        on_disk: whether a file lies behind it.
    """

    def __init__(self, sizes_wh: np.ndarray, memory: mmap.mmap, *, on_disk: bool) -> None:
        self._sizes_wh, self._memory, self._on_disk = sizes_wh, memory, on_disk
        self._starts = _starts(sizes_wh)
        self._is_there = np.frombuffer(memory, np.uint8, len(sizes_wh))

    def __len__(self) -> int:
        """Images that are there."""
        return int(np.count_nonzero(self._is_there))

    def size_wh(self, index: int) -> tuple[int, int]:
        """Width and height in pixels that an image is kept at."""
        return tuple(self._sizes_wh[index].tolist())

    def get(self, index: int) -> np.ndarray | None:
        """An image, not to be written to; None where it is not there."""
        return self._place(index) if self._is_there[index] else None

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep an image of ``size_wh(index)``.

        Raises:
            UserError: the disk fails.
        """
        place = self._place(index)
        np.copyto(place, image)
        if self._on_disk:
            try:
                self._memory.flush(int(self._starts[index]), place.nbytes)
            except OSError as error:
                cause = f"decoded images cannot be written to {cache_folder()} ({error.strerror or error})"
                raise UserError("data.cache", cause, "mend the disk, or leave data.cache out") from error
        self._is_there[index] = 1

    def _place(self, index: int) -> np.ndarray:
        width, height = self._sizes_wh[index]
        start, size = int(self._starts[index]), int(width) * int(height) * 3
        return np.frombuffer(self._memory, np.uint8, size, start).reshape(height, width, 3)


def num_bytes(sizes_wh: np.ndarray) -> int:
    """Bytes that a cache of images of these sizes [n, 2] takes."""
    return int(_starts(sizes_wh)[-1])


def _starts(sizes_wh: np.ndarray) -> np.ndarray:
    """Where each image begins, and where the last one ends: whole pages, which alone can be written out."""
    bytes_each = np.concatenate([[len(sizes_wh)], sizes_wh.astype(np.int64).prod(axis=1) * 3])
    return np.cumsum(-(-bytes_each // PAGE) * PAGE)


def open_cache(kind: CacheKind, *, files: list[Path], source_sizes_wh: np.ndarray, sizes_wh: np.ndarray) -> ImageCache:
    """A cache for the images of some files; with "disk" filled as an earlier run of the same files left it.

    Args:
        kind: where it is.
        files: the image files. One that was written again since makes another cache.
        source_sizes_wh: their sizes in pixels, int [n, 2].
        sizes_wh: the sizes to keep them at, int [n, 2].

    Raises:
        UserError: memory or disk does not suffice, or the file cannot be made.
    """
    size = num_bytes(sizes_wh)
    if kind == "ram":
        cache, where = ImageCache(sizes_wh, _in_memory(size, len(files)), on_disk=False), "in memory"
    else:
        path = cache_folder() / "images" / f"{_key(files, source_sizes_wh, sizes_wh)}.rgb"
        cache, where = ImageCache(sizes_wh, _on_disk(path, size, len(files)), on_disk=True), f"in {path}"
    there = f", {len(cache)} of them there already" if len(cache) else ""
    logger.info("data.cache=%s: %d decoded images, %s, %s%s", kind, len(files), _gigabytes(size), where, there)
    return cache


def _in_memory(size: int, num_images: int) -> mmap.mmap:
    available = available_memory()
    if available is not None and size > LARGEST_PART_OF_RAM * available:
        cause = f"{_gigabytes(available)} of memory are free, which training needs too"
        raise _too_large("ram", size, num_images, cause)
    try:
        return mmap.mmap(-1, size)
    except OSError as error:
        raise _too_large("ram", size, num_images, error.strerror or str(error)) from error


def _on_disk(path: Path, size: int, num_images: int) -> mmap.mmap:
    try:
        if not path.is_file() or path.stat().st_size != size:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_unfinished(path.parent)
            free = shutil.disk_usage(path.parent).free
            if size > free:
                raise _too_large("disk", size, num_images, f"{_gigabytes(free)} are free in {path.parent}")
            _make_file(path, size)
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        remedy = "make room, or set NEO_MODEL_CACHE to a folder on another disk"
        raise UserError(str(path), f"cannot be made ({error.strerror or error})", remedy) from error


def _make_file(path: Path, size: int) -> None:
    """All its blocks at once: a disk that fills up later would kill whoever writes to the mapping."""
    handle, unfinished = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            _lock(file)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise


def _remove_unfinished(folder: Path) -> None:
    """Remove what a process killed while it made a file has left; one that is still at it holds the file's lock."""
    for unfinished in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError), unfinished.open("r+b") as file:
            if _lock(file):
                unfinished.unlink()


def _lock(file: BinaryIO) -> bool:
    """Take a file's lock; the kernel takes it away when this process ends in whatever way."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the disk has no locks
        return False
    return True


def _key(files: list[Path], source_sizes_wh: np.ndarray, sizes_wh: np.ndarray) -> str:
    """A name for these files as they are now, at these sizes."""
    states = [(str(file), *_state(file)) for file in files]
    content = json.dumps([FORMAT, states, source_sizes_wh.tolist(), sizes_wh.tolist()])
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def _state(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:  # its own error comes when it is loaded
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _too_large(kind: str, size: int, num_images: int, cause: str) -> UserError:
    other = "data.cache=disk" if kind == "ram" else "NEO_MODEL_CACHE=DIR on another disk"
    needed = f"{num_images} decoded images take {_gigabytes(size)}"
    remedy = f"use {other} or a smaller data.resolution, or leave it out"
    return UserError(f"data.cache={kind}", f"{needed}; {cause}", remedy)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
