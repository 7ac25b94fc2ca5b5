"""The plain products that replace the fused kernel compute the same attention and the same gradients."""

import pytest
import torch
from torch.nn import functional as F

from neo_model.models.layers import SelfAttention, _attend


def inputs(tokens: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 4, tokens, 8) for _ in range(3)]


def blocked_pairs(tokens: int) -> torch.Tensor:
    blocked = torch.rand(tokens, tokens, generator=torch.Generator().manual_seed(1)) < 0.4
    return blocked & ~torch.eye(tokens, dtype=torch.bool)


def outcome(attend, query, key, value) -> list[torch.Tensor]:
    """The output in float32 and the gradients of a weighted sum of it."""
    leaves = [t.clone().requires_grad_() for t in (query, key, value)]
    mixed = attend(*leaves)
    weights = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(2))
    (mixed.float() * weights).sum().backward()
    return [mixed.detach().float(), *(leaf.grad.float() for leaf in leaves)]


@pytest.mark.parametrize("masked", [False, True])
def test_plain_products_are_as_exact_as_the_fused_kernel(masked, monkeypatch):
    tokens = inputs(37)
    blocked = blocked_pairs(37) if masked else None
    allowed = None if blocked is None else ~blocked
    fused = F.scaled_dot_product_attention

    def reference(query, key, value):
        return fused(query, key, value, attn_mask=allowed)

    exact = outcome(reference, *tokens)
    half = [t.bfloat16() for t in tokens]
    fused_error = [(a - b).abs().max() for a, b in zip(outcome(reference, *half), exact, strict=True)]
    # bfloat16 training on a CPU is what takes the plain path: the fused kernel may not be asked there.
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    plain = outcome(lambda *qkv: _attend(*qkv, blocked), *half)
    for ours, theirs, error in zip(plain, exact, fused_error, strict=True):
        assert (ours - theirs).abs().max() < max(2 * error, 1e-2 * theirs.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_blocked_token_has_no_influence(dtype):
    torch.manual_seed(0)
    layer = SelfAttention(16, num_heads=4).to(dtype)
    x, position = torch.randn(1, 6, 16, dtype=dtype, requires_grad=True), torch.randn(1, 6, 16, dtype=dtype)
    blocked = torch.zeros(6, 6, dtype=torch.bool)
    blocked[:3, 3:] = True
    layer(x, position, blocked)[:, :3].float().sum().backward()
    assert not x.grad[:, 3:].any() and x.grad[:, :3].any()


def test_values_carry_no_position_and_weights_are_those_of_torch():
    torch.manual_seed(0)
    layer = SelfAttention(16, num_heads=4).eval()
    x, position = torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    expected, _ = torch.nn.MultiheadAttention.forward(layer, x + position, x + position, x)
    torch.testing.assert_close(layer(x, position), expected)


@pytest.mark.parametrize("images", [1, 3])
def test_float32_rounds_exactly_as_torch(images):
    torch.manual_seed(0)
    layer = SelfAttention(256, num_heads=8)
    torch.nn.init.normal_(layer.in_proj_bias)
    x, position = torch.randn(images, 50, 256), torch.randn(1, 50, 256)
    query = x + position
    expected, _ = torch.nn.MultiheadAttention.forward(layer, query, query, x, need_weights=False)
    assert torch.equal(layer(x, position), expected)
