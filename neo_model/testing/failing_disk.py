"""A disk that refuses one operation, or everything from one operation on, for what this process does in a folder.

Everything that the process opens afterwards passes through Python's own implementation of files, whose calls of the
operating system are those of `os`, where they are counted. What C code writes by itself is not seen.
"""

import _pyio
import builtins
import errno
import io
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# The calls of `os` that change a disk, and what a table calls them.
CALLS = {
    **dict.fromkeys(("open", "mkdir"), "create"),
    **dict.fromkeys(("write", "ftruncate"), "write"),
    **dict.fromkeys(("fsync",), "fsync"),
    **dict.fromkeys(("replace", "rename", "link"), "rename"),
    **dict.fromkeys(("unlink",), "remove"),
}
NEEDS_ROOM = ("create", "write")
TO_A_PATH = ("replace", "rename", "link")  # their second argument is what they change
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Operation(NamedTuple):
    """A change of the disk, the same in every run.

    Attributes:
        what: create, write, fsync, rename or remove, and the file's name without what differs from run to run.
        number: which of its like in the process, from 1.
    """

    what: str
    number: int


class FailingDisk:
    """Counts a process's operations in a folder, and has one of them fail.

    Args:
        folder: whose files are counted.
        fails_at: the operation that fails; None has none fail.
        error: of `errno`. EIO fails this once; ENOSPC, once the disk is full, fails whatever needs room ever after.
        setattr: puts the calls in place; a test gives one that takes them back.
    """

    def __init__(
        self,
        folder: Path,
        fails_at: Operation | None,
        error: int = errno.EIO,
        *,
        setattr: Callable[[object, str, object], None] = setattr,
    ) -> None:
        self.folder, self.fails_at, self.error = Path(os.path.realpath(folder)), fails_at, error
        self.operations: list[Operation] = []
        self.has_failed, self._counts = False, Counter()
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        setattr(io, "open", _pyio.open)
        setattr(builtins, "open", _pyio.open)

    def _counted(self, name: str, call: Callable) -> Callable:
        def counted(target, *others, **options):
            flags = others[0] if name == "open" and others else WRITING
            file = self._name(others[0] if name in TO_A_PATH else target)
            if file is not None and flags & WRITING:
                self._count(CALLS[name], file)
            return call(target, *others, **options)

        return counted

    def _name(self, target: int | str | Path) -> str | None:
        """The name of the file that a path or a descriptor leads to; None for what is elsewhere."""
        if isinstance(target, int):
            path = Path(os.readlink(f"/proc/self/fd/{target}"))
        else:
            path = Path(os.path.realpath(os.fsdecode(target)))
        return re.sub(r"\d.*", "*", path.name) if path.is_relative_to(self.folder) else None

    def _count(self, kind: str, name: str) -> None:
        what = f"{kind} {name}"
        self._counts[what] += 1
        operation = Operation(what, self._counts[what])
        self.operations.append(operation)
        is_full = self.has_failed and self.error == errno.ENOSPC and kind in NEEDS_ROOM
        if operation == self.fails_at or is_full:
            self.has_failed = True
            raise OSError(self.error, os.strerror(self.error), name)
