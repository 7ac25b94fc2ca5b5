"""Batch norm and SiLU together, and concatenation, in forms that keep less and copy less during training."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def normalized_silu(inputs: list[Tensor], norms: list[nn.Module]) -> Tensor:
    """``silu(norms[0](inputs[0]) + norms[1](inputs[1]) + ...)`` of [B, C, H, W] maps.

    In training, autograd would keep the sum beside each norm's input, and an in-place SiLU a copy of it. Here only the
    inputs stay; the backward pass normalises them once more, which is cheap. It equals the plain form to rounding.
    """
    live = all(isinstance(norm, nn.BatchNorm2d) and norm.training for norm in norms)
    if not live or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        total = norms[0](inputs[0])
        for x, norm in zip(inputs[1:], norms[1:], strict=True):
            total = total + norm(x)
        return F.silu(total, inplace=not torch.is_grad_enabled())
    for norm in norms:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    return _NormalizedSiLU.apply(norms, *inputs, *(norm.weight for norm in norms), *(norm.bias for norm in norms))


class _NormalizedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, norms: list[nn.BatchNorm2d], *tensors: Tensor) -> Tensor:
        n = len(norms)
        total, kept = None, []
        for norm, x, weight, bias in zip(norms, tensors[:n], tensors[n : 2 * n], tensors[2 * n :], strict=True):
            out, mean, inverse_std = torch.native_batch_norm(
                x, weight, bias, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
            )
            total = out if total is None else total.add_(out)
            kept += [x, weight, bias, mean, inverse_std]
        ctx.save_for_backward(*kept)
        ctx.eps = [norm.eps for norm in norms]
        return F.silu(total, inplace=True)

    @staticmethod
    def backward(ctx, grad: Tensor):
        kept = ctx.saved_tensors
        branches = [kept[i : i + 5] for i in range(0, len(kept), 5)]
        total = None
        for (x, weight, bias, mean, inverse_std), eps in zip(branches, ctx.eps, strict=True):
            variance = inverse_std.square().reciprocal_().sub_(eps)
            out = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
            total = out if total is None else total.add_(out)
        grad_total = torch.ops.aten.silu_backward(grad, total)
        gradients = [
            torch.ops.aten.native_batch_norm_backward(
                grad_total, x, weight, None, None, mean, inverse_std, True, eps, [True, True, True]
            )
            for (x, weight, _, mean, inverse_std), eps in zip(branches, ctx.eps, strict=True)
        ]
        return None, *(g for kind in zip(*gradients, strict=True) for g in kind)


def joined(*maps: Tensor) -> Tensor:
    """Maps [B, C_i, H, W] side by side: [B, sum of C_i, H, W], as `torch.cat`.

    Each one's gradient is a slice of the whole's, with gaps between its pixels; a batch norm behind it takes eight times
    as long on such a slice as on a dense copy.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        maps = [_DenseGradient.apply(x) for x in maps]
    return torch.cat(maps, dim=1)


class _DenseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if channels_last else torch.contiguous_format
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=ctx.layout)
