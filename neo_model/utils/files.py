"""Files that are there or not, and files that are written whole or not at all."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neo_model.utils.errors import UserError


def check_present(name: str, *, files: Iterable[Path], folders: Iterable[Path], fetch_hint: str | None) -> None:
    """Refuse a data set some of whose files or folders do not exist.

    Args:
        name: what to call the data set.
        files, folders: what it needs.
        fetch_hint: the command that fetches it.

    Raises:
        UserError: naming all that is missing and how to get it.
    """
    missing = [str(path) for path in files if not path.is_file()] + [str(path) for path in folders if not path.is_dir()]
    if missing:
        remedy = f"fetch them with `{fetch_hint}`" if fetch_hint else "correct data.root or the paths beside it"
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


def write_whole(path: Path, text: str) -> None:
    """Create or replace a file that is at no time there in part.

    Raises:
        UserError: the disk refuses; a file of that name is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with telling_of_refusal(path):
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            raise
