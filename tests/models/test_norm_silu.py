"""Norm and activation in one: the same outputs, gradients and statistics as the plain form, and less kept."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neo_model.models.layers import ConvNorm
from neo_model.models.norm_silu import joined, normalized_silu


def branches(count: int, dtype=torch.float64) -> tuple[list[torch.Tensor], list[nn.BatchNorm2d]]:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(6).to(dtype) for _ in range(count)]
    for norm in norms:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return [torch.randn(2, 6, 5, 7, dtype=dtype, requires_grad=True) for _ in range(count)], norms


def plain(inputs: list[torch.Tensor], norms: list[nn.BatchNorm2d]) -> torch.Tensor:
    return F.silu(sum(norm(x) for x, norm in zip(inputs, norms, strict=True)))


@pytest.mark.parametrize("count", [1, 2])
def test_outputs_gradients_and_statistics_are_those_of_the_plain_form(count):
    inputs, norms = branches(count)
    twins = copy.deepcopy(norms)
    weights = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    results = []
    for compute, layers in ((normalized_silu, norms), (plain, twins)):
        out = compute(inputs, layers)
        parameters = [p for norm in layers for p in norm.parameters()]
        results.append([out, *torch.autograd.grad((out * weights).sum(), [*inputs, *parameters])])
        results[-1] += [buffer for norm in layers for buffer in norm.buffers()]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_evaluation_uses_the_running_statistics_and_changes_none():
    inputs, norms = branches(2)
    for norm in norms:
        nn.init.normal_(norm.running_mean)
        norm.eval()
    before = copy.deepcopy([norm.state_dict() for norm in norms])
    torch.testing.assert_close(normalized_silu(inputs, norms), plain(inputs, norms))
    for norm, state in zip(norms, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in norm.state_dict().items())


def test_only_the_norms_inputs_are_kept_for_the_backward_pass():
    inputs, norms = branches(2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        normalized_silu(inputs, norms)
    assert {x.data_ptr() for x in kept if x.dim() == 4} == {x.data_ptr() for x in inputs}


def test_joined_maps_get_dense_gradients():
    maps = [torch.randn(2, c, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_() for c in (3, 6)]
    whole = joined(*maps)
    assert torch.equal(whole, torch.cat(maps, dim=1))
    weights = torch.randn(2, 9, 4, 5).contiguous(memory_format=torch.channels_last)
    for gradient, expected in zip(torch.autograd.grad(whole, maps, weights), weights.split((3, 6), 1), strict=True):
        assert torch.equal(gradient, expected) and gradient.is_contiguous(memory_format=torch.channels_last)


def test_a_frozen_norm_folded_into_its_convolution_changes_nothing():
    torch.manual_seed(0)
    layer = ConvNorm(3, 6, kernel_size=3, stride=2, frozen_norm=True).double()
    for buffer in layer.norm.buffers():
        nn.init.uniform_(buffer, 0.5, 1.5)
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    leaves = (x, layer.conv.weight)
    results = [(out, *torch.autograd.grad((out * weights).sum(), leaves)) for out in (layer(x), layer.norm(layer.conv(x)))]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
