"""Reads what W&B keeps of a run on disk: a log in LevelDB's format whose entries are protocol buffers."""

import struct
from collections.abc import Iterator
from pathlib import Path

FILE_HEADER, FILE_HEADER_SIZE, BLOCK_SIZE = b":W&B", 7, 32768
ENTRY_HEADER = struct.Struct("<IHB")  # checksum, length, and which part of a record it is
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def last_row(run_dir: Path, run_id: str) -> int:
    """The highest W&B step of which a row is on disk in any of a run's folders; -1 without any.

    Raises:
        OSError: a file cannot be read.
    """
    files = (run_dir / "wandb").glob(f"*run-*/run-{run_id}.wandb")
    records = (record for path in files for record in read_wandb(path))
    return max((record.history.step.num for record in records if record.HasField("history")), default=-1)


def read_wandb(path: Path) -> Iterator:
    """The records of a ``.wandb`` file, as ``wandb``'s own ``Record`` messages.

    They end before one that is still being written, or was when its writer was killed, and before what is no record.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for content in _entries(path.read_bytes()):
        record = Record()
        try:
            record.ParseFromString(content)
        except DecodeError:
            return
        yield record


def _entries(content: bytes) -> Iterator[bytes]:
    start, parts = FILE_HEADER_SIZE, []
    while content.startswith(FILE_HEADER) and start < len(content):
        if BLOCK_SIZE - start % BLOCK_SIZE < ENTRY_HEADER.size:  # too little is left of the block for a header
            start += BLOCK_SIZE - start % BLOCK_SIZE
            continue
        if len(content) < start + ENTRY_HEADER.size:
            return
        _, length, part = ENTRY_HEADER.unpack_from(content, start)
        start += ENTRY_HEADER.size
        if len(content) < start + length or part not in (WHOLE, FIRST, MIDDLE, LAST):
            return
        parts.append(content[start : start + length])
        start += length
        if part in (WHOLE, LAST):
            yield b"".join(parts)
            parts.clear()
