"""Files from elsewhere that may mean harm: what can be told before their content is used."""

import zipfile
from pathlib import Path
from typing import Any

from neo_model.utils.errors import UserError

# A configuration of ours has some 150 entries on five levels.
MOST_ENTRIES, DEEPEST = 10_000, 64
REMEDY = "use a checkpoint that neo_model has written"


def refuse_bomb(path: str | Path) -> None:
    """Refuse a torch file that unpacks to more than its own size: torch stores, it never compresses.

    Raises:
        UserError: it does.
        OSError: the file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return  # torch's older formats are one pickle, as long as they look
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return  # for torch to refuse
    size = Path(path).stat().st_size
    if unpacked > size:
        raise UserError(str(path), f"unpacks to {unpacked:,} bytes from {size:,}", "do not use this file")


def check_plain(path: str | Path, key: str, value: Any) -> None:
    """Refuse what is no configuration: other things than texts, numbers, lists and dictionaries of texts, or too many.

    A pickle can hold one list a million times over; copied out, as a configuration is, it would fill the memory.

    Raises:
        UserError: naming the key.
    """
    if not isinstance(value, dict):
        raise UserError(str(path), f"its {key} is no dictionary", REMEDY)
    entries, waiting = 0, [(key, value, 0)]
    while waiting:
        place, entry, depth = waiting.pop()
        entries += 1
        if entries + len(waiting) > MOST_ENTRIES or depth > DEEPEST:
            raise UserError(str(path), f"its {key} has too many entries", REMEDY)
        if isinstance(entry, dict):
            if not all(isinstance(name, str) for name in entry):
                raise UserError(str(path), f"its {place} has keys that are no text", REMEDY)
            waiting += [(f"{place}.{name}", child, depth + 1) for name, child in entry.items()]
        elif isinstance(entry, list):
            waiting += [(f"{place}[{index}]", child, depth + 1) for index, child in enumerate(entry)]
        elif not (entry is None or isinstance(entry, str | int | float)):
            raise UserError(str(path), f"its {place} is a {type(entry).__name__}", REMEDY)


def check_classes_entry(path: str | Path, classes: Any) -> None:
    """Refuse a checkpoint's ``classes`` that is not a list of names and one of as many ids.

    Raises:
        UserError: it is not.
    """
    names, ids = (classes.get(key) if isinstance(classes, dict) else None for key in ("names", "category_ids"))
    are_lists = isinstance(names, list) and isinstance(ids, list) and len(names) == len(ids) > 0
    if not (are_lists and all(type(name) is str for name in names) and all(type(number) is int for number in ids)):
        raise UserError(str(path), "its classes are not names with ids", REMEDY)


def check_state_entries(path: str | Path, model: Any, average: Any) -> None:
    """Refuse a checkpoint whose ``model`` is no state dict, or whose ``ema`` is neither None nor holds one.

    Raises:
        UserError: naming the entry.
    """
    if not _is_state(model):
        raise UserError(str(path), "its model is not named weights", REMEDY)
    if average is not None and not (isinstance(average, dict) and _is_state(average.get("module"))):
        raise UserError(str(path), "its ema holds no named weights", REMEDY)


def check_progress_entry(path: str | Path, progress: Any) -> None:
    """Refuse a checkpoint's ``progress`` that is not numbers by name, of which step, epoch and batch are whole.

    Raises:
        UserError: it is not.
    """
    if not (
        isinstance(progress, dict)
        and all(type(progress.get(name)) is int for name in ("step", "epoch", "batch"))
        and all(isinstance(value, int | float) for value in progress.values())
    ):
        raise UserError(str(path), "its progress does not say how far training was", REMEDY)


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)
