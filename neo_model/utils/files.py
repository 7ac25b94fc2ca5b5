"""Files that are there or not, and files that are written whole or not at all."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neo_model.utils.errors import UserError
from neo_model.utils.quoting import typed

# What a system answers about a path that leads to nothing.
NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}

FETCHING = "python -m neo_model.data.prepare"


def is_there(path: Path) -> bool:
    """Whether a path leads to anything.

    What may not be looked at may be there: ``Path.exists`` and its like say no of it, or raise, depending on Python's
    version.

    Raises:
        UserError: it may not be looked at.
    """
    return _mode(path) is not None


def is_file(path: Path) -> bool:
    """Whether a path leads to a file; raises as `is_there` does."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder; raises as `is_there` does."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except ValueError:  # there is a zero byte in it
        return None
    except OSError as error:
        if error.errno in NOTHING_THERE:
            return None
        raise refused_to_read(path, error) from error


def refused_to_read(path: str | Path, error: OSError) -> UserError:
    """What to tell the user of a system's refusal to let ``path`` be read."""
    remedy = "correct the permissions of it and of the folders above it, or see to the disk"
    return UserError(str(path), f"cannot be read ({error.strerror or error})", remedy)


def check_present(name: str, *, files: Iterable[Path], folders: Iterable[Path], fetch_hint: str | None) -> None:
    """Refuse a data set some of whose files or folders do not exist.

    Args:
        name: what to call the data set.
        files, folders: what it needs.
        fetch_hint: the command that fetches it, its last word perhaps root= and a folder in any characters. It is told
            only if it is ours: a stranger's checkpoint may bring another.

    Raises:
        UserError: naming all that is missing and how to get it, or what may not be looked at.
    """
    missing = [str(path) for path in files if not is_file(path)]
    missing += [str(path) for path in folders if not is_folder(path)]
    if missing:
        remedy = "correct data.root or the paths beside it"
        command, *root = (fetch_hint or "").split(" root=", 1)
        if command == FETCHING:
            remedy = f"fetch them with `{' '.join([command, *(typed('root', folder) for folder in root)])}`"
        raise UserError(f"data={name}", f"missing {', '.join(dict.fromkeys(missing))}", remedy)


def cache_folder() -> Path:
    """Where weights and decoded images are kept: ``NEO_MODEL_CACHE``, or ``neo_model`` in the user's cache folder."""
    if chosen := os.environ.get("NEO_MODEL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neo_model"


@contextmanager
def telling_of_refusal(path: str | Path, remedy: str = "make room, or choose another folder") -> Iterator[None]:
    """Turn a disk's refusal to write ``path`` into a ``UserError``."""
    try:
        yield
    except OSError as error:
        raise UserError(str(path), f"cannot be written ({error.strerror or error})", remedy) from error


def write_whole(path: Path, text: str | Iterable[str]) -> None:
    """Create or replace a file that is at no time there in part.

    Args:
        path: in a folder that exists.
        text: the content, perhaps in pieces.

    Raises:
        UserError: the disk refuses; a file of that name is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with telling_of_refusal(path):
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                file.writelines([text] if isinstance(text, str) else text)
                file.flush()
                os.fsync(file.fileno())  # or a power failure could leave the name with nothing behind it
            unfinished.replace(path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            raise


def remove_unfinished(folder: Path) -> None:
    """Remove what processes killed while they wrote a file have left; for a folder in which no other process writes."""
    for unfinished in folder.glob(".*.[0-9]*.tmp"):
        with suppress(OSError):  # it does no harm
            unfinished.unlink()
