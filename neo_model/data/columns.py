"""One key of many JSON objects as one array, with the first offender named when a value is of the wrong kind."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from neo_model.utils import UserError

LARGEST_INTEGER = 2**63 - 1
LARGEST_FLOAT = int(np.finfo(np.float64).max)


def integer_column(path: Path, what: str, entries: list[dict], key: str) -> np.ndarray:
    """int64 [n] of whole numbers (3.0 counts as 3).

    Args:
        path: the file, for errors.
        what: what an entry is, for errors: "image", "annotation", "category".
        entries: the objects.
        key: the key to read.

    Raises:
        UserError: a value is missing or of another kind (text, for example).
    """
    values = _values(path, what, entries, key)
    column = _array(values)
    whole = column.dtype.kind in "iu" or (column.dtype.kind == "f" and (column == np.floor(column)).all())
    if column.shape != (len(entries),) or not whole or (np.abs(column) > LARGEST_INTEGER).any():
        _refuse_first(path, what, entries, values, key, _is_integer, "an integer")
    return column.astype(np.int64)


def number_column(path: Path, what: str, entries: list[dict], key: str, *, missing: float) -> np.ndarray:
    """float64 [n]; ``missing`` stands in for an absent key or a null. Arguments and errors as ``integer_column``."""
    values = [entry.get(key, missing) for entry in entries]
    column = _array(values)
    if column.dtype == object:
        values = [missing if value is None else value for value in values]
        column = _numbers(values, _is_number)
    if column.shape != (len(entries),) or column.dtype.kind not in "iufb":
        _refuse_first(path, what, entries, values, key, _is_number, "a number")
    return column.astype(np.float64)


def box_column(path: Path, what: str, entries: list[dict], key: str) -> np.ndarray:
    """float64 [n, 4] of lists of four numbers. Arguments and errors as ``integer_column``."""
    values = _values(path, what, entries, key)
    column = _numbers(values, _is_box) if values else np.empty((0, 4))
    if column.shape != (len(entries), 4) or column.dtype.kind not in "iuf":
        _refuse_first(path, what, entries, values, key, _is_box, "a list of four numbers")
    return column.astype(np.float64)


def text_column(path: Path, what: str, entries: list[dict], key: str) -> list[str]:
    """The strings, none empty and all of real characters. Arguments and errors as ``integer_column``."""
    values = _values(path, what, entries, key)
    if not all(map(_is_text, values)):
        _refuse_first(path, what, entries, values, key, _is_text, "a text")
    return values


def _values(path: Path, what: str, entries: list[dict], key: str) -> list:
    try:
        return [entry[key] for entry in entries]
    except KeyError:
        position = next(position for position, entry in enumerate(entries) if key not in entry)
    raise UserError(path, f'{_name(what, entries, position)} has no "{key}"', "give a complete COCO instances file")


def _array(values: list) -> np.ndarray:
    """numpy's own choice of type, which tells numbers from text; lists of unlike lengths become objects."""
    try:
        return np.array(values)
    except ValueError:
        return np.array([None] * len(values), dtype=object)


def _numbers(values: list, is_right: Callable) -> np.ndarray:
    """Like ``_array``; whole numbers beyond 64 bits, which numpy keeps as objects, become floats."""
    column = _array(values)
    return np.array(values, dtype=np.float64) if column.dtype == object and all(map(is_right, values)) else column


def _is_number(value) -> bool:
    return isinstance(value, float) or isinstance(value, int) and abs(value) <= LARGEST_FLOAT


def _is_integer(value) -> bool:
    return _is_number(value) and abs(value) <= LARGEST_INTEGER and float(value).is_integer()


def _is_box(value) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_text(value) -> bool:
    if not (isinstance(value, str) and value):
        return False
    try:
        value.encode()  # JSON can hold half a character, "\\ud800", which no file name or table can
    except UnicodeEncodeError:
        return False
    return True


def _refuse_first(
    path: Path, what: str, entries: list[dict], values: list, key: str, is_right: Callable, wanted: str
) -> NoReturn:
    position = next(position for position, value in enumerate(values) if not is_right(value))
    found = f"{_name(what, entries, position)} has {key} {values[position]!r:.40}"
    raise UserError(path, found, f"{key} must be {wanted}")


def _name(what: str, entries: list[dict], position: int) -> str:
    entry = entries[position]
    return f"{what} {entry['id']!r:.40}" if "id" in entry else f"{what} at position {position}"
