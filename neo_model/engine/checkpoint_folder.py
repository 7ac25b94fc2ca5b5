"""The checkpoints of a run: the newest, those before it, and the best."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from neo_model.engine.checkpoint import NewerFormat, read_checkpoint, write_checkpoint
from neo_model.utils import UserError
from neo_model.utils.errors import UnreadableFile
from neo_model.utils.files import is_there, refused_to_read, remove_unfinished
from neo_model.utils.sealed_file import check_seal
from neo_model.utils.untrusted import check_progress_entry

log = logging.getLogger(__name__)

UNREADABLE = "unreadable.pt"
# What file systems without a second name for a file answer.
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Newest(NamedTuple):
    """The newest whole checkpoint: where it lies, what it holds, and what is wrong with those that are newer."""

    path: Path
    content: dict
    passed_over: list[UserError]


class CheckpointFolder:
    """``last.pt``, ``step_<number>.pt`` before it, and ``best.pt`` in a run's folder ``checkpoints``.

    A ``last.pt`` on a defective part of the disk is kept as ``unreadable.pt``: it may be whole once the disk is mended.

    Args:
        run_dir: the run's folder.
        keep: whole states to keep, ``last.pt`` among them.
    """

    def __init__(self, run_dir: Path, keep: int = 2) -> None:
        self.folder, self.keep = run_dir / "checkpoints", keep
        self.last, self.best = self.folder / "last.pt", self.folder / "best.pt"
        self._step_of_last: int | None = None  # known once it is ours or was read, and so is whole
        self._is_last_unreadable = False
        self._whole: dict[tuple[int, int, int], bool] = {}

    def save_last(self, content: dict) -> None:
        """Make ``content`` the newest state. The one before keeps its place under its step's name.

        Raises:
            UserError: the disk refuses; all states so far are still there.
        """
        step = content["progress"]["step"]
        if self._is_last_unreadable:
            write_checkpoint(self.last, content, before_replacing=self._keep_last_aside)
        elif self._step_of_last in (None, step):
            write_checkpoint(self.last, content)
        else:
            write_checkpoint(self.last, content, before_replacing=self._name_last_after_its_step)
        self._step_of_last, self._is_last_unreadable = step, False
        self._whole[_identity(self.last)] = True
        self._remove_old()

    def save_best(self, content: dict) -> None:
        """Write the best weights.

        Raises:
            UserError: the disk refuses; the best so far are still there.
        """
        write_checkpoint(self.best, content)

    def newest(self) -> Newest:
        """The newest checkpoint that is as it was written.

        Raises:
            UserError: there is none, or a newer one may be whole: it comes from a newer version of neo_model, or cannot
                be read just now.
        """
        passed_over = []
        for path in self._newest_first():
            try:
                content = read_checkpoint(path)
                check_progress_entry(path, content.get("progress"))
            except NewerFormat:
                raise
            except UnreadableFile as error:
                if not _is_defect(error):
                    raise
                self._is_last_unreadable |= path == self.last
                passed_over.append(error)
                continue
            except UserError as error:
                passed_over.append(error)
                continue
            if path == self.last:
                self._step_of_last = content["progress"]["step"]
            return Newest(path, content, passed_over)
        raise passed_over[0]

    def is_empty(self) -> bool:
        """Whether there is nothing to go on from, whole or not.

        Raises:
            UserError: the folder may not be looked into.
        """
        return not any(is_there(path) for path in self._newest_first())

    def remove_temporaries(self) -> None:
        """Remove what a process killed while writing has left in the run's folder, too; only one trains there, see
        `training_alone`."""
        for folder in (self.folder, self.folder.parent):
            remove_unfinished(folder)

    def _newest_first(self) -> Iterator[Path]:
        """All that there may be."""
        yield self.last
        try:
            yield from self._named_by_step()
        except OSError as error:
            raise refused_to_read(self.folder, error) from error

    def _named_by_step(self) -> list[Path]:
        """Newest first; raises ``OSError`` where ``glob`` would say that there are none."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted((self.folder / name for name in names if fnmatch(name, "step_*.pt")), reverse=True)

    def _name_last_after_its_step(self) -> None:
        self._give_last_another_name(f"step_{self._step_of_last:08d}.pt")

    def _keep_last_aside(self) -> None:
        self._give_last_another_name(UNREADABLE)
        log.warning("%s could not be read and is kept as %s", self.last, UNREADABLE)

    def _give_last_another_name(self, name: str) -> None:
        """A second name, so that there is a ``last.pt`` at every moment."""
        named = self.folder / name
        with suppress(FileNotFoundError):
            os.unlink(named)
        try:
            os.link(self.last, named)
        except FileNotFoundError:
            pass  # somebody has removed last.pt
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            os.replace(self.last, named)

    def _remove_old(self) -> None:
        """Remove all but the ``keep`` newest; what is damaged does not count, so that as many whole ones stay."""
        whole = 1  # last.pt
        with suppress(OSError):  # no reason to stop: the newest is safe
            for path in self._named_by_step():
                if whole >= self.keep:
                    path.unlink()
                else:
                    whole += self._is_whole(path)

    def _is_whole(self, path: Path) -> bool:
        """Compare a file with its SHA-256, unless this process has and nobody wrote to it since."""
        identity = _identity(path)
        if identity not in self._whole:
            try:
                self._whole[identity] = check_seal(path) is not None
            except UserError:
                self._whole[identity] = False
        return self._whole[identity]


def _is_defect(error: UnreadableFile) -> bool:
    """Whether the disk itself has failed: trying again is of no use."""
    return getattr(error.__cause__, "errno", None) == errno.EIO


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
