"""Whether the files that a data set needs are there."""

from collections.abc import Iterable
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
