"""Counts what a piece of PyTorch code does to a device: operations, bytes moved, and the peak of what is alive.

It works the same on real tensors and under `FakeTensorMode`, where tensors have shapes and no data, so that a GPU's
memory can be counted on a machine without one.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
ALLOCATIONS = {aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default,
               aten.new_empty_strided.default}  # fmt: skip
# Their first argument is written and not read.
OVERWRITES = {aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default, aten._foreach_copy_.default,
              aten._foreach_zero_.default}  # fmt: skip
# They read rows of a matrix, or pixels of a map, as often as they are asked for: which argument is read, which says
# where, and how many rows for each of its numbers. A point has two, for four pixels; its gradient also adds to each.
GATHERS = {
    aten._embedding_bag.default: (0, 1, 1),
    aten._embedding_bag_forward_only.default: (0, 1, 1),
    aten._embedding_bag_backward.default: (0, 1, 1),
    aten._embedding_bag_dense_backward.default: (0, 1, 1),
    aten._embedding_bag_per_sample_weights_backward.default: (1, 2, 1),
    aten.grid_sampler_2d.default: (0, 1, 2),
    aten.grid_sampler_2d_backward.default: (1, 2, 4),
}


class OperationCounter(TorchDispatchMode):
    """Within the context, counts the operations on one kind of device, whatever autograd and autocast add included.

    Views and bare allocations move nothing and are no operations. An operation moves its tensor arguments and its
    results, returned or written in place, once each, which is what separate kernels do with tensors larger than the
    cache. What it gathers it moves row by row (`GATHERS`).

    Attributes:
        costs: of every operation the bytes in and out, and the multiplications and additions of a convolution or
            matrix product.
        alive_bytes, peak_bytes, bytes_at_start: of distinct storages seen so far, now, at the highest point, and when
            the count was started.

    Args:
        device_type: ``cuda``, ``cpu``; tensors elsewhere are left out.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.costs: list[tuple[int, int]] = []
        self.alive_bytes = self.peak_bytes = self.bytes_at_start = 0
        self._storages: dict[int, tuple[weakref.ref, int]] = {}

    @property
    def operations(self) -> int:
        """How many."""
        return len(self.costs)

    @property
    def bytes_moved(self) -> int:
        """By all operations."""
        return sum(num_bytes for num_bytes, _ in self.costs)

    @property
    def flops(self) -> int:
        """Of all operations."""
        return sum(flops for _, flops in self.costs)

    def seconds(self, *, flop_rate: float, byte_rate: float) -> float:
        """On a device of these rates, if every operation reaches the one that binds it (the roofline model)."""
        return sum(max(num_bytes / byte_rate, flops / flop_rate) for num_bytes, flops in self.costs)

    def start(self) -> None:
        """Count from here; what is alive stays counted as alive."""
        self.costs.clear()
        self.bytes_at_start = self.peak_bytes = self.alive_bytes

    def watch(self, *tensors: Tensor) -> None:
        """Count tensors made outside of the context as alive."""
        for tensor in tensors:
            self._note(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function.namespace == "prim":  # questions about a tensor
            return result
        arguments = self._tensors((args, kwargs))
        results = self._tensors(result)
        if not arguments and not results:
            return result
        for tensor in (*arguments, *results):
            self._note(tensor)
        if function not in ALLOCATIONS and not _only_views(function, arguments, results):
            read = self._tensors((args[function in OVERWRITES :], kwargs))
            written = results if function._schema.returns else self._tensors(_written(function, args))
            num_bytes = sum(_num_bytes(t) for t in (*read, *written)) + _gathered_more(function, args)
            count_flops = flop_registry.get(function._overloadpacket)
            self.costs.append((num_bytes, count_flops(*args, **kwargs, out_val=result) if count_flops else 0))
        return result

    def _tensors(self, tree: Any) -> list[Tensor]:
        """Distinct tensors on the device, in order."""
        found = {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
        return [tensor for tensor in found.values() if tensor.device.type == self.device_type]

    def _note(self, tensor: Tensor) -> None:
        """Add the tensor's storage to what is alive until it is freed."""
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages[key] = (weakref.ref(storage, lambda _: self._forget(key)), num_bytes)
        self.alive_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.alive_bytes)

    def _forget(self, key: int) -> None:
        _, num_bytes = self._storages.pop(key)
        self.alive_bytes -= num_bytes


def _num_bytes(tensor: Tensor) -> int:
    """Of the elements; an expanded tensor has no more than its storage."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _written(function, args: tuple) -> list:
    """The arguments that are written to."""
    schema = zip(function._schema.arguments, args, strict=False)
    return [value for argument, value in schema if argument.alias_info is not None and argument.alias_info.is_write]


def _gathered_more(function, args: tuple) -> int:
    """Bytes that are gathered beyond those of the tensor that they come from."""
    if function not in GATHERS:
        return 0
    source, where, rows = GATHERS[function]
    gathered = args[where].numel() * rows * args[source].shape[1] * args[source].element_size()
    return gathered - _num_bytes(args[source])


def _only_views(function, arguments: list[Tensor], results: list[Tensor]) -> bool:
    """Whether every result is another view of an argument, which is not written to."""
    if function._schema.is_mutable or not results:
        return False
    sources = {tensor.untyped_storage()._cdata for tensor in arguments}
    return all(tensor.untyped_storage()._cdata in sources for tensor in results)
