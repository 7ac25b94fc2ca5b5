"""Mixing rows of a matrix: the sum as it is written, and both gradients of our own."""

import pytest
import torch

from neo_model.models import token_mixing
from neo_model.models.token_mixing import mix_tokens

ROWS, WIDTH, MIXTURES, OF_EACH = 50, 16, 30, 12


def outcome(mix, dtype: torch.dtype) -> list[torch.Tensor]:
    """Mixtures and the gradients of rows and shares, of the same numbers in any precision from bfloat16 on."""
    generator = torch.Generator().manual_seed(0)
    index_KT = torch.randint(ROWS, (MIXTURES, OF_EACH), generator=generator, dtype=torch.int32)
    rows_ND, share_KT, grad_KD = (
        torch.rand(size, generator=generator).bfloat16().to(dtype, copy=True)
        for size in ((ROWS, WIDTH), (MIXTURES, OF_EACH), (MIXTURES, WIDTH))
    )
    leaves = rows_ND.requires_grad_(), share_KT.requires_grad_()
    mixed_KD = mix(rows_ND, index_KT, share_KT)
    return [mixed_KD.detach(), *torch.autograd.grad(mixed_KD, leaves, grad_KD)]


def as_written(rows_ND, index_KT, share_KT) -> torch.Tensor:
    return (rows_ND[index_KT] * share_KT[..., None]).sum(dim=1)


def test_in_float64_it_is_the_sum_with_its_gradients():
    torch.testing.assert_close(outcome(mix_tokens, torch.float64), outcome(as_written, torch.float64))


# The second is for GPUs, and made of operations that a CPU has as well.
@pytest.mark.parametrize("function", [token_mixing._MixTokens, token_mixing._MixWithFloat32Gradient])
def test_in_bfloat16_sum_and_gradients_differ_by_rounding_alone(function):
    for ours, exact in zip(outcome(function.apply, torch.bfloat16), outcome(as_written, torch.float64), strict=True):
        assert ours.dtype == torch.bfloat16
        assert 0 < (ours.double() - exact).norm() < 0.004 * exact.norm()
