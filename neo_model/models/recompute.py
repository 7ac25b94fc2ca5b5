"""Recomputation: keep a block's input instead of what is inside it, and run the block again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run(block: nn.Module, *inputs: Tensor) -> Tensor:
    """``block(*inputs)``, recomputed in the backward pass where `RTDETR.recompute` asked for it."""
    if not (getattr(block, "recomputed", False) and torch.is_grad_enabled() and block.training):
        return block(*inputs)
    options = {"preserve_rng_state": getattr(block, "draws_random_numbers", False)}  # none of ours does
    if not torch.compiler.is_compiling():  # a compiled graph updates the statistics outside what it computes again
        options["context_fn"] = lambda: (nullcontext(), unchanged_statistics(block))
    return checkpoint(block, *inputs, use_reentrant=False, **options)


@contextmanager
def unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Within it the batch norms of ``module`` normalise as in training but leave their running statistics alone.

    The first pass has counted the batch. A momentum of 0 writes the old value back bit for bit.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
