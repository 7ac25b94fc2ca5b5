"""Deformable attention: the equation, the faster order of its sums, and sampling at the sizes of a 1080p image."""

import pytest
import torch
from torch import nn

from neo_model.models import deformable
from neo_model.models.deformable import DeformableAttention, Points, Tokens, mix_then_project, project_then_mix

HEIGHT, WIDTH = 135, 240  # of the finest level at 1920x1080
BOTH_ORDERS = pytest.mark.parametrize("mix", [project_then_mix, mix_then_project])


def read(mix, map_HW: torch.Tensor, x: torch.Tensor, y: torch.Tensor, *, discrete: bool = False) -> torch.Tensor:
    """What one head reads of a map with one channel at points in 0..1."""
    value_proj = nn.Linear(1, 1).to(map_HW.dtype)
    nn.init.ones_(value_proj.weight), nn.init.zeros_(value_proj.bias)
    memory = Tokens(map_HW.reshape(-1, 1), 1, [tuple(map_HW.shape)])
    locations = torch.stack((x, y), dim=-1).view(1, -1, 1, 1, 2)
    return mix(value_proj, memory, Points(locations, torch.ones(locations.shape[:-1]), [1], discrete)).flatten()


@BOTH_ORDERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_column_is_found_again_in_either_precision(mix, dtype):
    """Columns alternate between 0 and 1: a position that is half a pixel off shows."""
    columns = torch.arange(WIDTH)
    mixed = read(mix, (columns % 2).to(dtype).expand(HEIGHT, -1), (columns + 0.5) / WIDTH, torch.full((WIDTH,), 0.5))
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.float(), (columns % 2).float(), atol=0.01, rtol=0)


@BOTH_ORDERS
def test_discrete_reading_reaches_every_column_and_line_and_stays_inside(mix):
    """The published code takes the height for the width at the right edge of rectangles; ours does not."""
    for size, horizontal in ((WIDTH, True), (HEIGHT, False)):
        place = torch.arange(float(size))
        map_HW = place.expand(HEIGHT, -1) if horizontal else place[:, None].expand(-1, WIDTH)
        along = torch.cat((torch.tensor([-1.0]), (place + 0.25) / size, (place + 0.75) / size, torch.tensor([7.0])))
        across = torch.full_like(along, 0.5)
        found = read(mix, map_HW, *((along, across) if horizontal else (across, along)), discrete=True)
        beside = (place + 1).clamp(max=size - 1)  # beyond its middle a pixel gives way to the next
        assert torch.equal(found, torch.cat((place[:1], place, beside, place[-1:])))


FORMS = {
    "as in version 1": {"num_points": [2, 2, 2]},
    "other numbers of points": {"num_points": [3, 1, 2]},
    "discrete": {"num_points": [2, 3, 1], "sampling": "discrete"},
}


def outcome(mix_first: bool, attention, query, reference, memory, monkeypatch) -> list[torch.Tensor]:
    """Output and the gradients of a weighted sum of it for everything that takes one."""
    monkeypatch.setattr(deformable, "mixing_first_pays", lambda *_: mix_first)
    query, rows, reference = (x.clone().requires_grad_() for x in (query, memory.rows_ND, reference))
    attention.zero_grad()
    mixed = attention(query, reference, Tokens(rows, memory.batch_size, memory.sizes))
    weights = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(1), dtype=mixed.dtype)
    (mixed * weights).sum().backward()
    gradients = [x.grad for x in (query, rows, reference, *attention.parameters())]
    return [mixed.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("form", FORMS)
def test_mixing_first_equals_projecting_first_to_the_last_digits(form, monkeypatch):
    """In float64, with boxes that reach over every edge, maps of odd sizes and two images."""
    torch.manual_seed(0)
    sizes = [(9, 15), (5, 8), (3, 4)]
    attention = DeformableAttention(16, num_heads=4, **FORMS[form]).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    memory = Tokens.of([torch.randn(2, 16, *size, dtype=torch.float64) for size in sizes])
    query, reference = torch.randn(2, 7, 16, dtype=torch.float64), torch.rand(2, 7, 4, dtype=torch.float64)
    first, plain = (outcome(m, attention, query, reference, memory, monkeypatch) for m in (True, False))
    assert len(first) == 12 - 3 * (form == "discrete"), "discrete reading has no gradient for boxes and offsets"
    for ours, theirs in zip(first, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_position_that_is_not_a_number_shows_in_the_output():
    """It must reach the check on predictions, not read foreign memory."""
    memory = Tokens.of([torch.randn(1, 4, 3, 5)])
    locations = torch.full((1, 2, 1, 1, 2), 0.5)
    locations[0, 1] = torch.nan
    mixed = mix_then_project(nn.Linear(4, 4), memory, Points(locations, torch.ones(1, 2, 1, 1), [1]))
    assert mixed[0, 0].isfinite().all() and mixed[0, 1].isnan().all()


def test_tokens_are_row_major_blocks_of_a_level_and_an_image():
    maps = [torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5), torch.arange(2 * 3 * 2 * 3.0).view(2, 3, 2, 3) + 1000]
    tokens = Tokens.of(maps)
    first_BL = tokens.first_rows()
    for image in range(2):
        for level, (x, count) in enumerate(zip(maps, tokens.counts, strict=True)):
            start = int(first_BL[image, level])
            assert torch.equal(tokens.rows_ND[start : start + count], x[image].flatten(1).T)
