"""Fetches COCO 2017 into the layout of ``data=coco``; ``python -m neo_model.data.prepare --help`` says how."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neo_model.data.archives import extract_folder
from neo_model.data.coco import read_coco
from neo_model.utils.download import check_file, download
from neo_model.data.image_files import check_images
from neo_model.utils import UserError
from neo_model.utils.quoting import typed

HELP = """\
Fetch COCO 2017 for `python train.py data=coco`: 20 GB to download, 40 GB of disk in between.

usage: python -m neo_model.data.prepare [key=value ...]

  root=DIR               where it goes (data/coco): DIR/train2017, DIR/val2017, DIR/annotations
  parts=[val,...]        which of train, val and annotations (all three)
  keep_archives=true     keep the zip files, in DIR/archives (false)
  verify_only=true       fetch nothing, check that all images are there, and the checksums of kept archives (false);
                         python -m neo_model.data.audit data=coco looks into the images
  base_url=URL           another server with the same files (http://images.cocodataset.org)

An interrupted command goes on where it stopped when it is given again. Parts that are there are skipped.

examples:
  python -m neo_model.data.prepare
  python -m neo_model.data.prepare 'parts=[val,annotations]'
  python -m neo_model.data.prepare root=/disk/coco verify_only=true
"""

PartName = Literal["train", "val", "annotations"]
SETTINGS = {
    "root": str,
    "parts": PartName | list[PartName],
    "base_url": str,
    "keep_archives": bool,
    "verify_only": bool,
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One archive of the published data set.

    Args:
        archive: its path on the server.
        checksums: hashlib's name of each algorithm -> published digest.
        folder: the folder inside the archive, and under the root.
        annotations: the COCO file, from the root, that lists the images of `folder`; for the part that is the
            annotations themselves, None.
        num_images: how many images it lists.
        files: files in `folder` that must be there.
        archive_bytes, unpacked_bytes: about; a quarter more is refused.
    """

    archive: str
    checksums: Mapping[str, str]
    folder: str
    annotations: str | None = None
    num_images: int = 0
    files: tuple[str, ...] = ()
    archive_bytes: int
    unpacked_bytes: int


COCO_2017 = {
    "annotations": Part(
        archive="annotations/annotations_trainval2017.zip",
        checksums={"md5": "f4bbac642086de4f52a3fdda2de5fa2c", "sha1": "8551ee4bb5860311e79dace7e79cb91e432e78b3"},
        folder="annotations",
        files=("instances_train2017.json", "instances_val2017.json"),
        archive_bytes=253_000_000,
        unpacked_bytes=840_000_000,
    ),
    "val": Part(
        archive="zips/val2017.zip",
        checksums={"md5": "442b8da7639aecaf257c1dceb8ba8c80", "sha1": "4950dc9d00dbe1c933ee0170f5797584351d2a41"},
        folder="val2017",
        annotations="annotations/instances_val2017.json",
        num_images=5_000,
        archive_bytes=816_000_000,
        unpacked_bytes=816_000_000,
    ),
    "train": Part(
        archive="zips/train2017.zip",
        checksums={"md5": "cced6f7f71b7629ddf16f17bbcfab6b2", "sha1": "10ad623668ab00c62c096f0ed636d6aff41faca5"},
        folder="train2017",
        annotations="annotations/instances_train2017.json",
        num_images=118_287,
        archive_bytes=19_400_000_000,
        unpacked_bytes=19_400_000_000,
    ),
}


def prepare(parts: list[Part], *, root: Path, base_url: str, keep_archives: bool, first_wait: float = 1.0) -> None:
    """Download and unpack the parts that are not there yet.

    Args:
        root: folder of the data set.
        base_url: server and path that the archives' paths are appended to.
        keep_archives: keep the archives under ``root/archives`` after unpacking.
        first_wait: see ``download``.

    Raises:
        UserError: the disk is too small, a download or an archive is wrong, or another process fetches into the folder.
    """
    if not base_url.startswith(("http://", "https://")):
        raise UserError("base_url", f"{base_url!r} is not an http or https address", "write http://HOST/PATH")
    absent = [part for part in parts if not _is_there(part, root)]
    for part in parts:
        if part not in absent:
            print(f"{root / part.folder}: there already")
    try:
        (root / "archives").mkdir(parents=True, exist_ok=True)
        with _alone_in(root):
            _check_space(absent, root, keep_archives)
            for part in absent:
                _fetch(part, root, base_url.rstrip("/"), keep_archives, first_wait)
            if not any((root / "archives").iterdir()):
                (root / "archives").rmdir()
    except OSError as error:
        cause = f"cannot be written ({error.strerror or error})"
        raise UserError(str(root), cause, "choose another root=DIR") from error


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Refuse a second process: what two append to one file could pass each one's checksums and still be no archive."""
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(str(root), "another process is fetching into it", "wait until that has ended") from None
        except OSError as error:
            print(f"warning: {root}: this disk has no locks ({error}); run one such command at a time", file=sys.stderr)
        yield
    finally:
        os.close(folder)


def verify(parts: list[Part], *, root: Path) -> None:
    """Check the archives that were kept, and that every image that the annotations list is there.

    Raises:
        UserError: listing everything that is missing or wrong.
    """
    problems = []
    for part in parts:
        try:
            print(f"{root / part.folder}: {_verify_part(part, root)}")
        except UserError as error:
            problems.append(error)
        except OSError as error:
            cause = f"cannot be read ({error.strerror or error})"
            problems.append(UserError(str(error.filename or root), cause, "check the disk and its permissions"))
    if problems:
        causes = " | ".join(f"{error.where}: {error.cause}" for error in problems)
        remedies = ", and ".join(dict.fromkeys(error.remedy for error in problems))
        raise UserError(str(root), f"{len(problems)} of {len(parts)} parts are not right: {causes}", remedies)


def _verify_part(part: Part, root: Path) -> str:
    """What is right about a part, in words; raises ``UserError`` otherwise."""
    archive = _archive_path(part, root)
    if archive.exists():
        check_file(archive, part.checksums)
    if not _is_there(part, root):
        remedy = "run the same command without verify_only=true"
        raise UserError(str(root / part.folder), _whats_there(part, root), remedy)
    if part.annotations is None:
        return f"{' and '.join(part.files)} are there"
    listing = root / part.annotations
    if not listing.is_file():
        return f"{part.num_images:,} images (without {listing} to compare)"
    instances = read_coco(listing)
    if len(instances) != part.num_images:
        raise UserError(str(listing), f"lists {len(instances):,} images, not {part.num_images:,}", "fetch it again")
    check_images(root / part.folder, instances)
    return f"all {part.num_images:,} images of {listing.name}"


def _fetch(part: Part, root: Path, base_url: str, keep_archive: bool, first_wait: float) -> None:
    archive, folder = _archive_path(part, root), root / part.folder
    url = f"{base_url}/{part.archive}"
    print(f"{folder}: fetching {url}")
    download(url, archive, checksums=part.checksums, max_bytes=_with_margin(part.archive_bytes), first_wait=first_wait)
    num_files = extract_folder(
        archive,
        part.folder,
        folder,
        max_files=_with_margin(part.num_images + 100),
        max_bytes=_with_margin(part.unpacked_bytes),
    )
    if not _is_there(part, root):
        raise UserError(str(archive), f"unpacked, but {_whats_there(part, root)}", "do not use this archive")
    print(f"{folder}: {num_files:,} files unpacked")
    if not keep_archive:
        archive.unlink()


def _with_margin(about: int) -> int:
    return about + about // 4


def _archive_path(part: Part, root: Path) -> Path:
    return root / "archives" / Path(part.archive).name


def _is_there(part: Part, root: Path) -> bool:
    folder = root / part.folder
    return _count_images(folder) >= part.num_images and all((folder / name).is_file() for name in part.files)


def _whats_there(part: Part, root: Path) -> str:
    if part.num_images:
        return f"has {_count_images(root / part.folder):,} of {part.num_images:,} images"
    return f"has not both {' and '.join(part.files)}"


def _count_images(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(entry.name.endswith(".jpg") for entry in entries)


def _check_space(parts: list[Part], root: Path, keep_archives: bool) -> None:
    """Refuse to begin what cannot end; what an earlier run has left in the archives folder counts for its own part."""
    used = most = 0
    for part in parts:
        here = sum(path.stat().st_size for path in root.glob(f"archives/{_archive_path(part, root).name}*"))
        used += part.archive_bytes - here + part.unpacked_bytes
        most = max(most, used)
        if not keep_archives:
            used -= part.archive_bytes
    free = shutil.disk_usage(root).free
    if most > free:
        cause = f"{most / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free"
        raise UserError(str(root), cause, "choose another disk by root=DIR, or fewer parts=[...]")


def _next(root: Path) -> str:
    """What is to be done once parts have been fetched."""
    missing = [name for name, part in COCO_2017.items() if not _is_there(part, root)]
    if missing:
        return f"not there yet, and needed for training: {', '.join(missing)}"
    return f"next: python train.py data=coco {typed('data.root', root)}"


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    from neo_model.config.simple import read_settings  # an entry point's need; the functions above do without Hydra

    try:
        settings = read_settings("prepare", arguments, SETTINGS)
        names = [settings["parts"]] if isinstance(settings["parts"], str) else settings["parts"]
        if not names:
            raise UserError("parts", "names none", f"give some of {', '.join(COCO_2017)}, or leave it out for all")
        # In COCO_2017's order: the small files first, so that a mistake shows early.
        parts = [part for name, part in COCO_2017.items() if name in names]
        root = Path(settings["root"])
        if settings["verify_only"]:
            verify(parts, root=root)
        else:
            prepare(parts, root=root, base_url=settings["base_url"], keep_archives=settings["keep_archives"])
            print(_next(root))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
