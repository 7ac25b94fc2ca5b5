"""Folders of runs, created so that no two runs ever share one."""

import os
from datetime import datetime
from pathlib import Path

from neo_model.utils import UserError
from neo_model.utils.files import is_there, telling_of_refusal
from neo_model.utils.quoting import typed

RUN_FILES = ("config.yaml", "checkpoints")


def new_folder(parent: Path) -> Path:
    """A folder named after this very microsecond, that nobody else has; two launches at once get two.

    Raises:
        UserError: it cannot be created.
    """
    chosen_folder(parent)
    with telling_of_refusal(parent):
        while True:
            folder = parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue


def chosen_folder(folder: Path) -> Path:
    """The folder that the user named, created if need be.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        raise UserError(str(folder), error.strerror or str(error), "choose another folder") from error
    except ValueError as error:  # a zero byte, or half of a character
        raise UserError(str(folder), "is no name of a folder", "choose another folder") from error
    return folder


def check_unused(folder: Path) -> None:
    """Raise ``UserError`` if the folder holds a run, or may not be looked into."""
    if any(is_there(folder / name) for name in RUN_FILES):
        from neo_model.engine.checkpoint_folder import CheckpointFolder  # brings torch, for the refusal alone

        # A run that was killed before its first checkpoint has nothing to go on from: it can only start again.
        again = CheckpointFolder(folder).is_empty()
        remedy = "add resume=auto to start it again" if again else f"go on with it by {typed('resume', folder)}"
        raise UserError(str(folder), "already holds a run", f"{remedy}, or choose another folder")
