"""Checkpoints: one file a save, whole or not there at all, tensors and plain containers only."""

import itertools
import os
from contextlib import suppress
from pathlib import Path

import torch

from neo_model.models.weights import read_tensors
from neo_model.utils import UserError

FORMAT = 1


def write_checkpoint(path: Path, content: dict) -> None:
    """Write ``content`` to ``path``; a crash at any moment leaves the old or the new file whole.

    Raises:
        UserError: the disk refuses; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # What the disk says in the middle of a write reaches us as the context of an error of torch's.
        refusal = error if isinstance(error, OSError) else error.__context__
        if not isinstance(refusal, OSError):
            raise
        reason = refusal.strerror or str(refusal)
        raise UserError(str(path), f"cannot be written ({reason})", "make room; the previous one is kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checkpoint(path: str | Path) -> dict:
    """A checkpoint written by `write_checkpoint`.

    Raises:
        UserError: the file is missing, damaged, not one of ours, or of a newer version.
    """
    content = read_tensors(path)
    if not {"format", "config", "classes", "model"} <= content.keys():
        raise UserError(
            str(path), "is not a checkpoint of neo_model", "start from such weights with weights=FILE in training"
        )
    if content["format"] > FORMAT:
        raise UserError(str(path), f"has format {content['format']}, newer than {FORMAT}", "update neo_model")
    return content


def averaged_weights(checkpoint: dict) -> dict[str, torch.Tensor]:
    """The weights to evaluate and ship: the average where there is one."""
    return checkpoint["model"] if checkpoint["ema"] is None else checkpoint["ema"]["module"]


def check_classes(path: Path | str, saved: dict, classes) -> None:
    """Refuse weights of other classes than the data's.

    Raises:
        UserError: with both counts and the first differences.
    """
    if saved["names"] == classes.names and saved["category_ids"] == classes.category_ids:
        return
    pairs = itertools.zip_longest(saved["names"], classes.names, fillvalue="nothing")
    different = [f"{mine!r} and {other!r}" for mine, other in pairs if mine != other][:3]
    cause = f"has {len(saved['names'])} classes, the data {len(classes.names)}"
    if different:
        cause += f", first differing in {', '.join(different)}"
    else:
        cause += " of other category ids"
    raise UserError(str(path), cause, "train on these data with weights=FILE rehead=true")
