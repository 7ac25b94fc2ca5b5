"""The statistics that batch norms gather in a forward pass, copied and put back as one."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class BatchNormStatistics:
    """Running means, variances and counters of every live batch norm of a model.

    A forward pass writes its activations' mean and variance into them, finite or not, for good: the state before is
    kept in one tensor for each data type, which takes a kernel or two instead of some for every batch norm.
    """

    def __init__(self, model: nn.Module) -> None:
        buffers = [buffer for m in model.modules() if isinstance(m, nn.BatchNorm2d) for buffer in m.buffers()]
        kinds = {buffer.dtype for buffer in buffers}
        self._kinds = [[buffer for buffer in buffers if buffer.dtype == kind] for kind in sorted(kinds, key=str)]

    def copy(self) -> list[Tensor]:
        """The state now."""
        return [torch.cat([buffer.flatten() for buffer in buffers]) for buffers in self._kinds]

    def put_back(self, copy: list[Tensor], *, where: Tensor) -> None:
        """Go back to the state of a copy if ``where``, a truth value on the device, holds; nobody waits to know."""
        now = self.copy()
        kept = [torch.where(where, before, after) for before, after in zip(copy, now, strict=True)]
        for buffers, values in zip(self._kinds, self._in_pieces(kept), strict=True):
            torch._foreach_copy_(buffers, values)

    def by_buffer(self, copy: list[Tensor]) -> dict[Tensor, Tensor]:
        """Each buffer's value in a copy."""
        pieces = zip(self._kinds, self._in_pieces(copy), strict=True)
        return {buffer: value for buffers, values in pieces for buffer, value in zip(buffers, values, strict=True)}

    def _in_pieces(self, copy: list[Tensor]) -> Iterator[list[Tensor]]:
        """Views of a copy in the shapes of the buffers, one list for each data type."""
        for flat, buffers in zip(copy, self._kinds, strict=True):
            pieces = flat.split([buffer.numel() for buffer in buffers])
            yield [piece.view_as(buffer) for piece, buffer in zip(pieces, buffers, strict=True)]
