"""Published weights by name: fetched once into a cache, and the same bytes ever after.

Nobody publishes their checksums. So the SHA-256 is taken when a file is first seen, kept beside it, and compared each
time the file is used.
"""

import fcntl
import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neo_model.utils import UserError
from neo_model.utils.download import download
from neo_model.utils.files import cache_folder, write_whole

log = logging.getLogger(__name__)

PREFIX = "hub:"
RELEASE = "https://github.com/lyuwenyu/storage/releases/download/v0.1"
LICENCE = "Apache-2.0"  # of all of them
PUBLISHED = {
    "rtdetr_r18_coco": "rtdetr_r18vd_dec3_6x_coco_from_paddle.pth",
    "rtdetr_r34_coco": "rtdetr_r34vd_dec4_6x_coco_from_paddle.pth",
    "rtdetr_r50_m_coco": "rtdetr_r50vd_m_6x_coco_from_paddle.pth",
    "rtdetr_r50_coco": "rtdetr_r50vd_6x_coco_from_paddle.pth",
    "rtdetr_r101_coco": "rtdetr_r101vd_6x_coco_from_paddle.pth",
    "rtdetr_r18_coco_objects365": "rtdetr_r18vd_5x_coco_objects365_from_paddle.pth",
    "rtdetr_r50_coco_objects365": "rtdetr_r50vd_2x_coco_objects365_from_paddle.pth",
    "rtdetr_r101_coco_objects365": "rtdetr_r101vd_2x_coco_objects365_from_paddle.pth",
    "rtdetrv2_r18_coco": "rtdetrv2_r18vd_120e_coco.pth",
    "rtdetrv2_r34_coco": "rtdetrv2_r34vd_120e_coco_ema.pth",
    "rtdetrv2_r50_m_coco": "rtdetrv2_r50vd_m_7x_coco_ema.pth",
    "rtdetrv2_r50_coco": "rtdetrv2_r50vd_6x_coco_ema.pth",
    "rtdetrv2_r101_coco": "rtdetrv2_r101vd_6x_coco_from_paddle.pth",
    "rtdetrv2_r18_dsp_coco": "rtdetrv2_r18vd_dsp_3x_coco.pth",
    "rtdetrv2_r50_m_dsp_coco": "rtdetrv2_r50vd_m_dsp_3x_coco.pth",
    "rtdetrv2_r50_dsp_coco": "rtdetrv2_r50vd_dsp_1x_coco.pth",
    "rtdetrv2_hgnetv2_l_coco": "rtdetrv2_hgnetv2_l_6x_coco_from_paddle.pth",
    "rtdetrv2_hgnetv2_x_coco": "rtdetrv2_hgnetv2_x_6x_coco_from_paddle.pth",
    "rtdetrv2_hgnetv2_h_coco": "rtdetrv2_hgnetv2_h_6x_coco_from_paddle.pth",
}
LARGEST = 2**31  # bytes; the largest published file has some 0.6 GB
PIECE = 2**22
# torchvision's file names end in the beginning of their SHA-256.
NAMED_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
KEPT_DIGEST = re.compile(r"([0-9a-f]{64})(\s|$)")


def local_path(weights: str | Path) -> Path:
    """The path of a weight file, of a published one after fetching it.

    Args:
        weights: a path, or ``hub:NAME`` with a name of ``PUBLISHED``.

    Raises:
        UserError: there is no such name, the file cannot be fetched, or it has changed since it was first used.
    """
    if not str(weights).startswith(PREFIX):
        return Path(weights)
    name = str(weights).removeprefix(PREFIX)
    if name not in PUBLISHED:
        raise UserError(f"weights={weights}", "is not published", f"use one of {', '.join(PUBLISHED)}")
    return fetched(f"{RELEASE}/{PUBLISHED[name]}", key=f"weights={weights}")


def fetched(url: str, *, key: str, tries: int = 3, first_wait: float = 1.0) -> Path:
    """The path in the cache of the file at ``url``, fetched if need be, its SHA-256 compared with the first time's.

    Args:
        key: what the user asked for, to begin an error with.
        tries, first_wait: see `download`.

    Raises:
        UserError: it cannot be fetched, has changed, or what is kept of it is no digest.
    """
    target = cache_folder() / "weights" / url.rpartition("/")[2]
    try:
        with _alone(target):
            if not target.exists():
                log.info("fetching %s to %s", url, target)
                download(url, target, checksums={}, max_bytes=LARGEST, tries=tries, first_wait=first_wait)
            _compare(target)
    except OSError as error:
        raise UserError(str(target), f"cannot be used ({error.strerror or error})", "set NEO_MODEL_CACHE") from error
    except UserError as error:
        if error.where in {str(target), f"{target}.sha256"}:
            raise
        remedy = f"try again, or fetch {target.name} elsewhere and put it at {target}"
        raise UserError(f"{key} ({url})", f"cannot be fetched ({error.cause})", remedy) from error
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Wait for other processes that fetch the same file: what two append to one would pass for the file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compare(target: Path) -> None:
    """Compare a file with the digest beside it, or, the first time, put one there."""
    kept = target.with_name(f"{target.name}.sha256")
    whole = hashlib.sha256()
    with target.open("rb") as file:
        while piece := file.read(PIECE):
            whole.update(piece)
    digest = whole.hexdigest()
    named = NAMED_DIGEST.search(target.name)
    expected = _kept_digest(kept, target) if kept.exists() else named[1] if named else digest
    if not digest.startswith(expected):
        cause = f"has the SHA-256 {digest[:12]}..., not {expected[:12]}... as at first"
        raise UserError(str(target), cause, f"remove it to fetch it again, and {kept.name} if the new one is right")
    if not kept.exists():
        write_whole(kept, f"{digest}  {target.name}\n")  # as `sha256sum -c` reads it
        log.info("%s has the SHA-256 %s, which is compared from now on", target, digest)


def _kept_digest(kept: Path, target: Path) -> str:
    """The digest in a file of them; refused if there is none, since to take a new one would trust changed bytes."""
    found = KEPT_DIGEST.match(kept.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise UserError(str(kept), "holds no SHA-256", f"remove it and {target.name} beside it to fetch that again")
    return found[1]
