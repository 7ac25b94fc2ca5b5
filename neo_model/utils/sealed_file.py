"""Files that are whole or not there, with a SHA-256 inside that tells a single flipped bit.

The file is a ZIP archive, as torch writes it, and the seal is the archive's comment, which torch skips and
``unzip -z FILE`` shows: {"schema": 2, "step": 120, ..., "sha256": "..."}. The digest is of every byte before its own 64
digits, so that ``head -c -66 FILE | sha256sum`` gives it as well.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from neo_model.utils.errors import UserError

END_RECORD = b"PK\x05\x06"  # of a ZIP archive: 22 bytes, the last two of which are the length of the comment to come
END_LENGTH, COMMENT_LENGTH = 22, struct.Struct("<H")
LONGEST_COMMENT = 2**16 - 1
BEFORE_DIGEST, DIGEST_LENGTH, AFTER_DIGEST = b'"sha256": "', 64, b'"}'
PIECE = 2**22
OTHER_COPY = "use another copy, or an older checkpoint beside it"


class DamagedFile(UserError):
    """A file that is not as it was written."""


class SealedWriter:
    """What torch writes an archive to; everything that passes is hashed.

    Args:
        descriptor: of a file opened for writing; the caller closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._hash = descriptor, hashlib.sha256()
        # torch passes an archive on in thousands of pieces; the last one may be the end record, which the seal changes.
        self._waiting = bytearray()

    def write(self, data: bytes | memoryview) -> int:
        """Take the next piece; returns its length."""
        if len(self._waiting) + len(data) > PIECE:
            self._pass_on(self._waiting)
            self._waiting = bytearray()
        if len(data) > PIECE:
            self._pass_on(data)
        else:
            self._waiting += data
        return len(data)

    def flush(self) -> None:
        """Nothing to do here, but torch asks for it."""

    def seal(self, facts: dict) -> None:
        """End the archive with ``facts`` and the digest of all that was written.

        Raises:
            RuntimeError: what was written is no ZIP archive.
        """
        if self._waiting[-END_LENGTH:][: len(END_RECORD)] != END_RECORD:
            raise RuntimeError("only a ZIP archive can be sealed")
        comment = json.dumps({**facts, "sha256": ""}).encode().removesuffix(AFTER_DIGEST)
        length = COMMENT_LENGTH.pack(len(comment) + DIGEST_LENGTH + len(AFTER_DIGEST))
        self._pass_on(self._waiting[: -COMMENT_LENGTH.size] + length + comment)
        self._pass_on(self._hash.hexdigest().encode() + AFTER_DIGEST)

    def _pass_on(self, data: bytes | bytearray | memoryview) -> None:
        left = memoryview(data).cast("B")
        self._hash.update(left)
        while len(left):  # a disk that is nearly full takes a part
            left = left[os.write(self._descriptor, left) :]


def write_sealed(
    path: Path,
    write: Callable[[SealedWriter], None],
    facts: dict,
    *,
    before_replacing: Callable[[], None] = lambda: None,
) -> None:
    """Create or replace ``path``; a crash at any moment leaves the old or the new file whole.

    Args:
        path: in a folder that exists.
        write: writes a ZIP archive.
        facts: for the seal; ``schema`` among them.
        before_replacing: called when the new file is on the disk under another name, and the old one still there.

    Raises:
        OSError: the disk refuses; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            writer = SealedWriter(descriptor)
            write(writer)
            writer.seal(facts)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        before_replacing()
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):  # it is not there any more, or the disk has gone for good
            os.unlink(temporary)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_seal(path: str | Path) -> dict | None:
    """Compare a file with its seal, whose facts are returned; None for a file without one.

    Raises:
        OSError: the file cannot be read.
        DamagedFile: they do not agree.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LONGEST_COMMENT - END_LENGTH))
        end = file.read()
        start = end.rfind(END_RECORD)
        comment = end[start + END_LENGTH :] if start >= 0 else b""
        if not comment:
            return None
        digest_at = comment.rfind(BEFORE_DIGEST) + len(BEFORE_DIGEST)
        after = len(comment) - digest_at
        found, said = _digest(file, size - after), comment[digest_at:][:DIGEST_LENGTH].decode(errors="replace")
    if (found, AFTER_DIGEST) != (said, comment[digest_at:][DIGEST_LENGTH:]):
        cause = f"is damaged (its SHA-256 is {found[:12]}..., not {said[:12]}... as written in it)"
        raise DamagedFile(str(path), cause, OTHER_COPY)
    try:
        return json.loads(comment)
    except (ValueError, RecursionError) as error:  # somebody has made the digest anew
        raise DamagedFile(str(path), "is damaged (its seal is no JSON)", OTHER_COPY) from error


def _digest(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (data := file.read(min(PIECE, size))):
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()
