"""Files from elsewhere that may mean harm: what can be told before their content is used."""

import math
import re
import zipfile
from pathlib import Path
from typing import Any

from neo_model.utils.errors import CONTROL_CHARACTERS, UserError

# A configuration of ours has some 150 entries on five levels.
MOST_ENTRIES, DEEPEST = 10_000, 64
# And some 5 references; at that size there may be 19.
MOST_EXPANDED = 200_000
# `oc.create` reads a text as YAML, whose aliases multiply what no count of references shows, and `oc.decode` one that
# references have made longer; their names may be put together.
MAKES_STRUCTURES = re.compile(r"oc\.create|oc\.decode|\$\{[^:}]*\$\{")
ARCHIVE = b"PK\x03\x04"  # with which a zip file begins
REMEDY = "use a checkpoint that neo_model has written"


def refuse_bomb(path: str | Path) -> None:
    """Refuse a torch file that unpacks to more than its own size: torch stores, it never compresses.

    Raises:
        UserError: it does.
        BadZipFile: it begins as an archive whose list of contents only torch would find.
        OSError: the file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            if file.read(len(ARCHIVE)) == ARCHIVE:
                raise zipfile.BadZipFile("an archive without a readable end")
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

    A pickle can hold one list a million times over; copied out, as a configuration is, it would fill the memory. So
    would references, see `refuse_reference_bomb`.

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
    refuse_reference_bomb(f"{path}: its {key}", value)


def refuse_reference_bomb(where: str, value: Any, *, own: int = 0) -> None:
    """Refuse a configuration whose references, where they refer to each other, could multiply what it holds.

    Which ones do is not known before they are followed: the worst that n of them can be is n/3 levels, each with the
    level below three times over.

    Args:
        where: what to name in the error.
        value: plain containers, references not followed.
        own: how many of the references are known to do no harm.

    Raises:
        UserError: it could grow to more than ``MOST_EXPANDED`` entries, a hundred letters counted as an entry, or has a
            reference that makes structures.
    """
    size, references, waiting = 0, -own, [value]
    while waiting:
        entry = waiting.pop()
        size += 1
        if isinstance(entry, dict):
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry
        elif isinstance(entry, str):
            size += len(entry) // 100
            if "${" in entry:
                if MAKES_STRUCTURES.search(entry):
                    cause = "has a reference that makes structures (oc.create, oc.decode) or has a name put together"
                    raise UserError(where, cause, "write the values themselves")
                references += entry.count("${") + len(entry) // 1000  # reading a long one takes time as well
    # Compared as logarithms: the power of a million references is no float.
    if references > 0 and math.log(max(size, 100)) + references / 3 * math.log(3) > math.log(MOST_EXPANDED):
        raise UserError(where, f"has too many references ({references + own})", "write values out in place of ${...}")


def check_classes_entry(path: str | Path, classes: Any) -> None:
    """Refuse a checkpoint's ``classes`` that is not a list of names, fit to be shown, and one of as many ids.

    Raises:
        UserError: it is not.
    """
    names, ids = (classes.get(key) if isinstance(classes, dict) else None for key in ("names", "category_ids"))
    are_lists = isinstance(names, list) and isinstance(ids, list) and len(names) == len(ids) > 0
    if not (are_lists and all(type(name) is str for name in names) and all(type(number) is int for number in ids)):
        raise UserError(str(path), "its classes are not names with ids", REMEDY)
    if any(map(CONTROL_CHARACTERS.search, names)):
        raise UserError(str(path), "its classes have names with control characters", REMEDY)


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
        and all(0 <= progress[name] < 2**53 for name in ("step", "epoch", "batch"))
        and all(isinstance(value, int | float) for value in progress.values())
    ):
        raise UserError(str(path), "its progress does not say how far training was", REMEDY)


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)
