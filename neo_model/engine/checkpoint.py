"""Checkpoints: one file a save, whole or not there at all, tensors and plain containers only."""

import itertools
from collections.abc import Callable
from pathlib import Path

import torch

from neo_model.models.weights import read_tensors
from neo_model.utils import UserError
from neo_model.utils.sealed_file import write_sealed
from neo_model.utils.signals import later_about_children, raise_interruption_before
from neo_model.utils.untrusted import check_classes_entry, check_plain, check_progress_entry, check_state_entries

FORMAT = 2  # 1 had no seal


class NewerFormat(UserError):
    """A checkpoint of a version of neo_model that is not out yet, seen from here."""


def write_checkpoint(path: Path, content: dict, *, before_replacing: Callable[[], None] = lambda: None) -> None:
    """Write ``content`` to ``path``; a crash at any moment leaves the old or the new file whole.

    Args:
        path: the file; its folder is created if need be.
        content: tensors and plain containers.
        before_replacing: see `write_sealed`.

    Raises:
        UserError: the disk refuses; the old file is untouched.
        KeyboardInterrupt: it came in the middle; likewise.
    """
    facts = {"schema": FORMAT} | {key: content["progress"][key] for key in ("step", "epoch") if "progress" in content}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"format": FORMAT, **content}
        with later_about_children():
            write_sealed(path, lambda file: torch.save(whole, file), facts, before_replacing=before_replacing)
    except (OSError, RuntimeError) as error:
        raise_interruption_before(error)
        # What the disk says in the middle of a write reaches us as the context of an error of torch's.
        refusal = error if isinstance(error, OSError) else error.__context__
        if not isinstance(refusal, OSError):
            raise
        reason = refusal.strerror or str(refusal)
        remedy = "make room and resume the run; its checkpoints so far are kept"
        raise UserError(str(path), f"cannot be written ({reason})", remedy) from error


def read_checkpoint(path: str | Path) -> dict:
    """A checkpoint written by `write_checkpoint`, after a comparison with its SHA-256.

    Raises:
        DamagedFile: it is not as it was written.
        NewerFormat: a newer version of neo_model wrote it.
        UnreadableFile: the system refuses to read it, or there is no memory for it.
        UserError: the file is missing or not one of ours.
    """
    content = read_tensors(path)
    if not ({"format", "config", "classes", "model"} <= content.keys() and isinstance(content["format"], int)):
        raise UserError(
            str(path), "is not a checkpoint of neo_model", "start from such weights with weights=FILE in training"
        )
    if content["format"] > FORMAT:
        raise NewerFormat(str(path), f"has format {content['format']}, newer than {FORMAT}", "update neo_model")
    check_plain(path, "config", content["config"])
    check_classes_entry(path, content["classes"])
    check_state_entries(path, content["model"], content.setdefault("ema", None))
    # Without the attributes of an OrderedDict, which torch would obey.
    content["model"] = dict(content["model"])
    if content["ema"] is not None:
        content["ema"]["module"] = dict(content["ema"]["module"])
    if "progress" in content:
        check_progress_entry(path, content["progress"])
    return content


def averaged_weights(checkpoint: dict) -> dict[str, torch.Tensor]:
    """The weights to evaluate and ship: the average where there is one."""
    return checkpoint["model"] if checkpoint["ema"] is None else checkpoint["ema"]["module"]


def check_classes(path: Path | str, saved: dict, classes, *, any_ids: bool = False) -> None:
    """Refuse weights of other classes than the data's.

    Args:
        path: of the checkpoint.
        saved: its classes.
        classes: the data's.
        any_ids: whether the data may number the same classes otherwise, provided that names tell them apart.

    Raises:
        UserError: with both counts and the first differences.
    """
    told_apart = any_ids and len(set(classes.names)) == len(classes.names)
    if saved["names"] == classes.names and (told_apart or saved["category_ids"] == classes.category_ids):
        return
    pairs = itertools.zip_longest(saved["names"], classes.names, fillvalue="nothing")
    different = [f"{mine!r} and {other!r}" for mine, other in pairs if mine != other][:3]
    cause = f"has {len(saved['names'])} classes, the data {len(classes.names)}"
    if different:
        cause += f", first differing in {', '.join(different)}"
    else:
        cause += " of other category ids"
    raise UserError(str(path), cause, "train on these data with weights=FILE rehead=true")
