"""Deformable attention: the equation, the faster order of its sums, and sampling at the sizes of a 1080p image."""

import pytest
import torch
from torch import nn

from neo_model.models import deformable
from neo_model.models.deformable import DeformableAttention, Tokens, mix_then_project, project_then_mix

HEIGHT, WIDTH = 135, 240  # of the finest level at 1920x1080


@pytest.mark.parametrize("mix", [project_then_mix, mix_then_project])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_column_is_found_again_in_either_precision(mix, dtype):
    """Columns alternate between 0 and 1: a position that is half a pixel off shows."""
    columns = torch.arange(WIDTH)
    rows_ND = (columns % 2).to(dtype).repeat(HEIGHT)[:, None]
    locations = torch.stack(((columns + 0.5) / WIDTH, torch.full((WIDTH,), 0.5)), dim=-1)
    value_proj = nn.Linear(1, 1).to(dtype)
    nn.init.ones_(value_proj.weight), nn.init.zeros_(value_proj.bias)
    mixed = mix(
        value_proj, Tokens(rows_ND, 1, [(HEIGHT, WIDTH)]), locations.view(1, WIDTH, 1, 1, 1, 2), torch.ones(1, WIDTH, 1, 1, 1)
    )
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.flatten().float(), (columns % 2).float(), atol=0.01, rtol=0)


def outcome(mix_first: bool, attention, query, reference, memory, monkeypatch) -> list[torch.Tensor]:
    """Output and the gradients of a weighted sum of it for everything that takes one."""
    monkeypatch.setattr(deformable, "mixing_first_pays", lambda *_: mix_first)
    query, rows, reference = (x.clone().requires_grad_() for x in (query, memory.rows_ND, reference))
    attention.zero_grad()
    mixed = attention(query, reference, Tokens(rows, memory.batch_size, memory.sizes))
    weights = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(1), dtype=mixed.dtype)
    (mixed * weights).sum().backward()
    return [mixed.detach(), query.grad, rows.grad, reference.grad, *(p.grad.clone() for p in attention.parameters())]


def test_mixing_first_equals_projecting_first_to_the_last_digits(monkeypatch):
    """In float64, with boxes that reach over every edge, maps of odd sizes and two images."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # positions are kept in float32 otherwise
    torch.manual_seed(0)
    sizes = [(9, 15), (5, 8), (3, 4)]
    attention = DeformableAttention(16, num_heads=4, num_levels=3, num_points=2).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    memory = Tokens.of([torch.randn(2, 16, *size, dtype=torch.float64) for size in sizes])
    query, reference = torch.randn(2, 7, 16, dtype=torch.float64), torch.rand(2, 7, 4, dtype=torch.float64)
    first, plain = (outcome(m, attention, query, reference, memory, monkeypatch) for m in (True, False))
    for ours, theirs in zip(first, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_position_that_is_not_a_number_shows_in_the_output():
    """It must reach the check on predictions, not read foreign memory."""
    memory = Tokens.of([torch.randn(1, 4, 3, 5)])
    locations = torch.full((1, 2, 1, 1, 1, 2), 0.5)
    locations[0, 1] = torch.nan
    mixed = mix_then_project(nn.Linear(4, 4), memory, locations, torch.ones(1, 2, 1, 1, 1))
    assert mixed[0, 0].isfinite().all() and mixed[0, 1].isnan().all()


def test_tokens_are_row_major_blocks_of_a_level_and_an_image():
    maps = [torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5), torch.arange(2 * 3 * 2 * 3.0).view(2, 3, 2, 3) + 1000]
    tokens = Tokens.of(maps)
    first_BL = tokens.first_rows()
    for image in range(2):
        for level, (x, count) in enumerate(zip(maps, tokens.counts, strict=True)):
            start = int(first_BL[image, level])
            assert torch.equal(tokens.rows_ND[start : start + count], x[image].flatten(1).T)
