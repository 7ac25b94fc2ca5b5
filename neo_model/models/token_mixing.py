"""Weighted sums of a few rows of a large matrix, with a gradient that is as fast as the sum itself."""

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

SUM = 0  # of `torch.embedding_bag`'s modes


def mix_tokens(rows_ND: Tensor, index_KT: Tensor, share_KT: Tensor) -> Tensor:
    """``out[k] = sum over t of share[k, t] * rows[index[k, t]]`` -> [K, D].

    `embedding_bag` computes it without storing the rows it reads. Its own gradient for the rows is several times slower
    on a CPU than the sum; here it is a sum of the same kind: row n receives the shares of the gradients of all
    mixtures that used it.

    Args:
        rows_ND: N rows.
        index_KT: int32 or int64, T rows for each of K mixtures.
        share_KT: their weights, of the rows' dtype.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        if rows_ND.device.type == "cpu":
            return _MixTokens.apply(rows_ND, index_KT, share_KT)
        if rows_ND.dtype == torch.bfloat16:
            return _MixWithFloat32Gradient.apply(rows_ND, index_KT, share_KT)
    return _mixed(rows_ND, index_KT, share_KT)


def _mixed(rows_ND: Tensor, index_KT: Tensor, share_KT: Tensor) -> Tensor:
    return F.embedding_bag(index_KT, rows_ND, per_sample_weights=share_KT, mode="sum")


class _MixTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows_ND: Tensor, index_KT: Tensor, share_KT: Tensor) -> Tensor:
        ctx.save_for_backward(rows_ND, index_KT, share_KT)
        return _mixed(rows_ND, index_KT, share_KT)

    @staticmethod
    def backward(ctx, grad_KD: Tensor):
        rows_ND, index_KT, share_KT = ctx.saved_tensors
        grad_KD = grad_KD.contiguous()
        grad_rows = grad_share = None
        if ctx.needs_input_grad[0]:
            grad_rows = _scattered(grad_KD, index_KT, share_KT, len(rows_ND))
        if ctx.needs_input_grad[2]:
            grad_share = _inner_products(rows_ND, index_KT, grad_KD)
        return grad_rows, None, grad_share


class _MixWithFloat32Gradient(_MixTokens):
    """On a GPU PyTorch has no gradient of `embedding_bag` for bfloat16: float32's is taken, of copies made for it."""

    @staticmethod
    def backward(ctx, grad_KD: Tensor):
        rows_ND, index_KT, share_KT = ctx.saved_tensors
        K, T = index_KT.shape
        grad_KD, index = grad_KD.float().contiguous(), index_KT.flatten()
        mixture_of = torch.arange(K * T, dtype=index.dtype, device=index.device) // T
        sizes = index.new_full((K,), T)
        grad_rows = torch.ops.aten._embedding_bag_dense_backward(
            grad_KD, index, mixture_of, sizes, sizes, len(rows_ND), False, SUM, share_KT.flatten().float()
        )
        firsts = torch.arange(0, K * T, T, dtype=index.dtype, device=index.device)
        grad_share = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad_KD, rows_ND.float(), index, firsts, mixture_of, SUM
        )
        return grad_rows.to(rows_ND.dtype), None, grad_share.view_as(share_KT).to(share_KT.dtype)


def _scattered(grad_KD: Tensor, index_KT: Tensor, share_KT: Tensor, num_rows: int) -> Tensor:
    """The mixture turned around: for every row the sum over its uses -> [N, D]."""
    used_row, order = index_KT.flatten().sort()
    first_use = torch.searchsorted(used_row, torch.arange(num_rows, dtype=used_row.dtype), out_int32=True)
    mixture = (order // index_KT.shape[1]).to(torch.int32)
    return F.embedding_bag(
        mixture, grad_KD, first_use, per_sample_weights=share_KT.flatten()[order], mode="sum"
    )


def _inner_products(rows_ND: Tensor, index_KT: Tensor, grad_KD: Tensor) -> Tensor:
    """``rows[index[k, t]]`` times ``grad[k]`` -> [K, T], as the wanted entries of the product ``grad @ rows.T``."""
    K, T = index_KT.shape
    # torch samples no product of bfloat16 matrices; converting them costs less than what is gained.
    dtype = torch.promote_types(rows_ND.dtype, torch.float32)
    first_entry = torch.arange(0, K * T + 1, T, dtype=index_KT.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        wanted = torch.sparse_csr_tensor(
            first_entry, index_KT.flatten(), torch.zeros(K * T, dtype=dtype), (K, len(rows_ND)), check_invariants=False
        )
    products = torch.sparse.sampled_addmm(wanted, grad_KD.to(dtype), rows_ND.to(dtype).T, beta=0)
    return products.values().view(K, T).to(rows_ND.dtype)
