"""Unpacking a downloaded zip archive without trusting it."""

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm import tqdm

from neo_model.utils import UserError


def extract_folder(archive: Path, folder: str, target: Path, *, max_files: int, max_bytes: int) -> int:
    """Unpack what lies under `folder/` of a zip archive into `target`, all or nothing.

    The files are unpacked beside `target` first; if `target` is there already, they replace those of the same name and
    leave the others alone.

    Args:
        archive: the zip file.
        folder: name of the folder inside it.
        target: where the contents of that folder go.
        max_files, max_bytes: what the archive may hold at most, unpacked.

    Returns:
        The number of files.

    Raises:
        UserError: the archive is damaged, too large, or has an entry that leads elsewhere; nothing was changed.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked_members(archive, opened, folder, max_files, max_bytes)
            _extract(opened, members, unfinished)
        _move_into_place(unfinished, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(str(archive), f"is damaged ({error})", "delete this file and run the command again") from error
    except OSError as error:
        cause = f"cannot be unpacked ({error.strerror or error})"
        raise UserError(str(target), cause, "free some space or choose another root") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return len(members)


def _checked_members(
    archive: Path, opened: zipfile.ZipFile, folder: str, max_files: int, max_bytes: int
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files under `folder/` with their paths below it, after a look at every entry of the archive."""
    entries = opened.infolist()
    for entry in entries:
        if problem := _problem(entry):
            raise UserError(str(archive), f"entry {entry.filename!r} {problem}", "do not use this archive")
    num_bytes = sum(entry.file_size for entry in entries)
    if len(entries) > max_files or num_bytes > max_bytes:
        cause = f"unpacks to {len(entries):,} files and {num_bytes:,} bytes, more than {max_files:,} or {max_bytes:,}"
        raise UserError(str(archive), cause, "do not use this archive")
    paths = [(entry, PurePosixPath(entry.filename)) for entry in entries if not entry.is_dir()]
    members = [(entry, path.relative_to(folder)) for entry, path in paths if path.parts[0] == folder]
    if len({path for _, path in members}) < len(members):
        raise UserError(str(archive), "holds two entries of one name", "do not use this archive")
    if not members:
        raise UserError(str(archive), f"holds no folder {folder!r}", "check base_url")
    return members


def _problem(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry must not be unpacked, or None."""
    path = PurePosixPath(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if path.is_absolute() or "\\" in entry.filename or PureWindowsPath(entry.filename).drive:
        return "has an absolute or foreign path"
    if ".." in path.parts or not path.parts:
        return "leads out of the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    if entry.flag_bits & 1:
        return "is encrypted"
    return None


def _extract(opened: zipfile.ZipFile, members: list[tuple[zipfile.ZipInfo, PurePosixPath]], folder: Path) -> None:
    """Write the members; zipfile checks each one's CRC and never yields more than its declared size."""
    folder.mkdir()
    for entry, path in tqdm(members, desc=f"unpacking {Path(opened.filename).name}", unit="file", disable=None):
        destination = folder / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, open(destination, "xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)


def _move_into_place(unfinished: Path, target: Path) -> None:
    if not target.exists():
        os.rename(unfinished, target)
        return
    for path in sorted(unfinished.rglob("*")):
        destination = target / path.relative_to(unfinished)
        if path.is_dir():
            destination.mkdir(exist_ok=True)
        else:
            os.replace(path, destination)
