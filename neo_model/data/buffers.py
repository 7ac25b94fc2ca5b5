"""Memory for batches that is used again, because new memory is dear.

The kernel clears every new page when it is first touched: for a batch of images that takes as long as decoding them.
"""

import itertools
import math
import mmap
import weakref
from typing import NamedTuple

import numpy as np
import torch

_numbers = itertools.count()
_all_buffers: weakref.WeakValueDictionary[int, "KeptBuffers"] = weakref.WeakValueDictionary()


class KeptBuffers:
    """A few blocks of memory, shared with processes forked later. A block is free again when no tensor uses it.

    Args:
        count: of blocks. Memory is taken only when a block is first written.
        num_bytes: of each.
    """

    def __init__(self, *, count: int, num_bytes: int) -> None:
        # Anonymous, and so not bounded by the size of /dev/shm, which is 64 MB in a container.
        self._blocks = [mmap.mmap(-1, num_bytes) for _ in range(count)]
        self._free = list(range(count))
        self._number = next(_numbers)
        _all_buffers[self._number] = self

    def lease(self) -> int | None:
        """The number of a free block, no longer free; None when all are in use."""
        try:
            return self._free.pop()
        except IndexError:
            return None

    def array(self, block: int, shape: tuple[int, ...]) -> np.ndarray:
        """A leased block as uint8 of this shape."""
        return np.frombuffer(self._blocks[block], np.uint8, math.prod(shape)).reshape(shape)

    def tensor(self, block: int, shape: tuple[int, ...]) -> torch.Tensor:
        """The same as a tensor; the block is free again when it and all its views are gone."""
        array = self.array(block, shape)
        weakref.finalize(array, self._free.append, block).atexit = False
        return torch.from_numpy(array)  # its storage keeps the array alive

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A uint8 tensor of this shape in a free block, or in new memory when none is free."""
        block = self.lease()
        return torch.empty(shape, dtype=torch.uint8) if block is None else self.tensor(block, shape)

    def sent(self, block: int, shape: tuple[int, int, int, int]) -> "KeptImages":
        """What a worker process sends for images [B, H, W, 3] that it has written into a block."""
        return KeptImages(self._number, block, shape)


class KeptImages(NamedTuple):
    """A block on its way from a worker: only its number is sent, and a tensor [B, 3, H, W] arrives.

    Attributes:
        buffers: number of the ``KeptBuffers``.
        block: number of the block.
        shape: (B, H, W, 3).
    """

    buffers: int
    block: int
    shape: tuple[int, int, int, int]

    def __reduce__(self):
        return _arrived, tuple(self)


def _arrived(buffers: int, block: int, shape: tuple[int, int, int, int]) -> torch.Tensor:
    return _all_buffers[buffers].tensor(block, shape).permute(0, 3, 1, 2)
