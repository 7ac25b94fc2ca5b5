"""A GPU that has shapes and no data, to count a training step's memory and traffic on a machine without one.

`FakeTensorMode` runs every operation on shapes alone. Three things of a real step need more than that, and are
replaced here: values read on the host (arrays read as zeros, scalars as one and true), the choice of attention kernel (the
memory-efficient one is taken), and autograd's engine (it asks for a CUDA context; `walk_backward` does its work).
"""

import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within the context tensors on ``cuda`` are fake and need no GPU. Call `walk_backward`, not backward()."""
    with ExitStack() as stack:
        for owner, name, replacement in (
            (FakeTensor, "__bool__", lambda tensor: True),
            (FakeTensor, "item", lambda tensor: 1),
            (FakeTensor, "__array__", _zeros),
            (FakeTensor, "numpy", _zeros),
            (torch.Tensor, "pin_memory", _page_locked),
            (torch.nn.functional, "scaled_dot_product_attention", _efficient_attention),
            # Autocast switches itself off where there is no GPU.
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
            # Clipping handles all gradients in one operation, as with real tensors.
            (_foreach_utils, "_foreach_supported_types", [*_foreach_utils._foreach_supported_types, FakeTensor]),
            # Recomputation runs a block once for each pass of the engine, which it knows by this number.
            (torch._C, "_current_graph_task_id", lambda: 0),
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement, create=True))
        stack.enter_context(warnings.catch_warnings())
        # Copying a model asks for it; the answer is not used.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_RealHost())
        yield


def _page_locked(tensor: Tensor) -> Tensor:
    """The tensor, marked: there is no memory to lock, but only from such memory does a copy go on by itself."""
    tensor = tensor.detach()
    tensor.is_page_locked = True
    return tensor


class _RealHost(TorchDispatchMode):
    """Leaves work on the host as it is: the bookkeeping there decides about shapes."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(_is_on_gpu(leaf) for leaf in tree_leaves((args, kwargs))):
            return function(*args, **kwargs)
        with unset_fake_temporarily():
            return function(*args, **kwargs)


def _is_on_gpu(leaf) -> bool:
    return isinstance(leaf, FakeTensor) or (isinstance(leaf, torch.device) and leaf.type == "cuda")


def walk_backward(compute_loss: Callable[[], Tensor]) -> None:
    """``compute_loss().backward()`` by calling the graph's nodes one after another: the same gradients and order.

    Saved tensors are freed node by node, as the graph is let go; so nobody else may hold on to the loss or to anything
    else with a ``grad_fn``. Hooks on tensors are not called.
    """
    loss = compute_loss()
    root, first = loss.grad_fn, torch.ones_like(loss)
    del loss
    ready, waiting = [(root, [first])], _num_consumers(root)
    del root, first
    with torch.no_grad():
        _walk(ready, waiting)


def _walk(ready: list[tuple], waiting: dict) -> None:
    """Call the nodes that are ready, and those that become so: ``waiting`` has the number of gradients to come."""
    pending: dict = {}  # gradients of nodes that wait for more of them, by input
    while ready:
        # The engine, too, takes the node that the forward pass made last.
        node, incoming = ready.pop(max(range(len(ready)), key=lambda i: _sequence(ready[i][0])))
        edges, outgoing = list(node.next_functions), _call(node, incoming)
        del node, incoming
        for child, slot in edges:
            gradient = outgoing.pop(0)
            if child is None:
                continue
            _add(pending.setdefault(child, {}), slot, None if gradient is None else _fitted(gradient, child, slot))
            del gradient
            waiting[child] -= 1
            if waiting[child] == 0:
                del waiting[child]
                slots = pending.pop(child)
                ready.append((child, [slots.pop(i, None) for i in range(_num_inputs(child))]))
        del edges


def _call(node, gradients: list[Tensor | None]) -> list[Tensor | None]:
    """The gradients of what the node was computed from, one for each edge; a leaf keeps its own."""
    if all(gradient is None for gradient in gradients):
        return [None] * len(node.next_functions)
    if hasattr(node, "variable"):
        node.variable.grad = gradients[0] if node.variable.grad is None else node.variable.grad + gradients[0]
        return []
    written_in_python = isinstance(node, BackwardCFunction)
    result = node.apply(*gradients) if written_in_python else node(*gradients)
    result = list(result) if isinstance(result, tuple) else [result]
    if not written_in_python:
        return result
    # One for each argument of the forward pass, but only tensors have an edge, and only some of them lead anywhere.
    wanted = iter([gradient for gradient, needed in zip(result, node.needs_input_grad, strict=True) if needed])
    return [None if child is None else next(wanted) for child, _ in node.next_functions]


def _fitted(gradient: Tensor, node, slot: int) -> Tensor:
    """The gradient in the shape and type of the tensor it belongs to, which may have been broadcast or cast."""
    like = node.variable if hasattr(node, "variable") else node._input_metadata[slot]
    return gradient.sum_to_size(like.shape).to(like.dtype)


def _add(slots: dict[int, Tensor], slot: int, gradient: Tensor | None) -> None:
    """Add to what has come so far for that slot; in place, as the engine does, where nobody else has it."""
    if gradient is None:
        return
    if slot not in slots:
        slots[slot] = gradient
        return
    total = slots.pop(slot)
    alone = sys.getrefcount(total) <= 2 and total._base is None  # this name, and the function's argument
    slots[slot] = total.add_(gradient) if alone else total + gradient


def _num_consumers(root) -> dict:
    """For every node below the root, how many edges lead to it."""
    counts: dict = {}
    queue, seen = deque([root]), {root}
    while queue:
        for child, _ in queue.popleft().next_functions:
            if child is None:
                continue
            counts[child] = counts.get(child, 0) + 1
            if child not in seen:
                seen.add(child)
                queue.append(child)
    return counts


def _num_inputs(node) -> int:
    return 1 if hasattr(node, "variable") else len(node._input_metadata)


def _sequence(node) -> int:
    """When the forward pass made the node; gradients are stored as soon as they are there."""
    return sys.maxsize if hasattr(node, "variable") else node._sequence_nr()


def _zeros(tensor: Tensor, dtype=None) -> np.ndarray:
    return np.zeros(tuple(tensor.shape), dtype or np.float32)


def _efficient_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options):
    """The kernel that keeps no S x S weights; with ``attn_mask`` boolean, true where a row sees a column."""
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (t.to(torch.get_autocast_dtype("cuda")) for t in (query, key, value))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, compute_log_sumexp=query.requires_grad, scale=options.get("scale")
    )[0]
