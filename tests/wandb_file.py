"""Reads what Weights & Biases keeps of an offline run: a log in LevelDB's format whose entries are protocol buffers."""

import struct
from collections.abc import Iterator
from pathlib import Path

FILE_HEADER_SIZE, BLOCK_SIZE = 7, 32768
ENTRY_HEADER = struct.Struct("<IHB")  # checksum, length, and which part of a record it is
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_wandb(path: Path) -> Iterator:
    """The records of a ``.wandb`` file, as ``wandb``'s own ``Record`` messages; less one that is still being written."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, start, parts = path.read_bytes(), FILE_HEADER_SIZE, []
    assert content.startswith(b":W&B")
    while start < len(content):
        if BLOCK_SIZE - start % BLOCK_SIZE < ENTRY_HEADER.size:  # too little is left of the block for a header
            start += BLOCK_SIZE - start % BLOCK_SIZE
            continue
        if len(content) < start + ENTRY_HEADER.size:
            return
        _, length, part = ENTRY_HEADER.unpack_from(content, start)
        start += ENTRY_HEADER.size
        if len(content) < start + length:
            return
        assert part in (WHOLE, FIRST, MIDDLE, LAST)
        parts.append(content[start : start + length])
        start += length
        if part in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts.clear()
            yield record
