"""Counts how often the host would wait for the GPU, on a `fake_gpu`."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
# The number of results is for the device to say.
SIZED_BY_VALUES = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default,
                   aten.repeat_interleave.Tensor}  # fmt: skip
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
VALUES = {aten._local_scalar_dense.default, aten.equal.default}

TO_HOST, TO_HOST_LATER = "copies to the host that it waits for", "copies to the host that it reads later"
FROM_HOST, READ = "copies from the host that it waits for", "values read: bool(), item()"
SHAPES, BY_HOST_INDEX = "shapes that depend on values", "indexing by tensors of the host"
WAITS = (TO_HOST, FROM_HOST, READ, SHAPES, BY_HOST_INDEX)


class SyncCounter(TorchDispatchMode):
    """Within the context, which lies within that of `fake_gpu`, counts by kind what a step's host waits for.

    Attributes:
        counts: by the kinds of `WAITS`, and `TO_HOST_LATER`, which is no wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter()
        self._patches = ExitStack()

    def __enter__(self) -> "SyncCounter":
        for name in ("__bool__", "item"):  # fake_gpu answers them without an operation
            self._patches.enter_context(mock.patch.object(FakeTensor, name, self._counted(getattr(FakeTensor, name), READ)))
        self._patches.enter_context(mock.patch.object(torch, "nonzero", self._counted(torch.nonzero, SHAPES)))
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if function in COPIES:
            self._count_copy(tensors[-1], result, bool(kwargs.get("non_blocking", False) or True in args[2:3]))
        elif any(tensor.is_cuda for tensor in tensors):
            self.counts[SHAPES] += function in SIZED_BY_VALUES
            self.counts[READ] += function in VALUES
            if function in INDEXING:
                indices = [index for index in args[1] if index is not None]
                self.counts[SHAPES] += any(index.is_cuda and index.dtype == torch.bool for index in indices)
                self.counts[BY_HOST_INDEX] += any(not index.is_cuda for index in indices)
        return result

    def _count_copy(self, source: Tensor, result: Tensor, non_blocking: bool) -> None:
        if source.is_cuda and not result.is_cuda:
            self.counts[TO_HOST_LATER if non_blocking else TO_HOST] += 1
        elif result.is_cuda and not source.is_cuda:
            # From memory that the system may move, CUDA copies through a buffer of its own, for which the host waits.
            self.counts[FROM_HOST] += not (non_blocking and getattr(source, "is_page_locked", False))

    def _counted(self, call: Callable, kind: str) -> Callable:
        def counted(tensor: Tensor, *args, **kwargs):
            self.counts[kind] += tensor.is_cuda
            return call(tensor, *args, **kwargs)

        return counted
