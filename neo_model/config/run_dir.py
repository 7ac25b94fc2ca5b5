"""Folders of runs, created so that no two runs ever share one."""

from datetime import datetime
from pathlib import Path

from neo_model.utils import UserError

RUN_FILES = ("config.yaml", "checkpoints")


def new_folder(parent: Path) -> Path:
    """A folder named after this very microsecond, that nobody else has; two launches at once get two."""
    parent.mkdir(parents=True, exist_ok=True)
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
        UserError: it holds a run already, or cannot be created.
    """
    check_unused(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(str(folder), error.strerror or str(error), "choose another hydra.run.dir") from error
    return folder


def check_unused(folder: Path) -> None:
    """Raise ``UserError`` if the folder holds a run."""
    if any((folder / name).exists() for name in RUN_FILES):
        raise UserError(str(folder), "already holds a run", f"go on with it by resume={folder}, or choose another folder")
