"""Deformable attention reads where it says it reads."""

import math

import pytest
import torch

from neo_model.models.deformable import DeformableAttention, sample_and_mix

SIZES = [(4, 6), (2, 3)]
NUM_TOKENS = sum(height * width for height, width in SIZES)


def sample(locations, weights, value) -> torch.Tensor:
    """One image, one query, one head; locations [L, P, 2], weights [L, P]."""
    return sample_and_mix(value, locations[None, None, None], weights[None, None, None], SIZES)[0, 0]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 4), (3, 5)])
def test_the_centre_of_a_cell_is_its_token_in_row_major_order(row, column):
    value = torch.arange(NUM_TOKENS * 2, dtype=torch.float32).view(1, NUM_TOKENS, 2)
    height, width = SIZES[0]
    locations = torch.tensor([(column + 0.5) / width, (row + 0.5) / height]).expand(2, 1, 2)
    first_level = torch.tensor([[1.0], [0.0]])
    torch.testing.assert_close(sample(locations, first_level, value), value[0, row * width + column])


def test_between_cells_values_are_bilinear_and_outside_zero():
    value = torch.zeros(1, NUM_TOKENS, 1)
    value[0, 0], value[0, 1] = 10.0, 20.0
    first_level = torch.tensor([[1.0], [0.0]])
    between = torch.tensor([1 / 6, 0.5 / 4]).expand(2, 1, 2)
    assert sample(between, first_level, value).item() == pytest.approx(15, abs=1e-4)
    outside = torch.tensor([-0.5, 0.5]).expand(2, 1, 2)
    assert sample(outside, first_level, value).item() == 0


def test_levels_and_points_are_mixed_by_their_weights():
    value = torch.zeros(1, NUM_TOKENS, 1)
    value[0, 0], value[0, 23], value[0, 24] = 1.0, 10.0, 100.0
    locations = torch.tensor([[[0.5 / 6, 0.5 / 4], [5.5 / 6, 3.5 / 4]], [[0.5 / 3, 0.5 / 2], [2, 2]]])
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert sample(locations, weights, value).item() == pytest.approx(0.1 + 2 + 30, rel=1e-4)


def test_at_first_heads_look_in_eight_directions_at_steps_that_scale_with_the_box():
    layer = DeformableAttention(32, num_heads=8, num_levels=2, num_points=4)
    offsets = layer.sampling_offsets(torch.randn(1, 1, 32)).view(8, 2, 4, 2)
    for head in range(8):
        angle = head * math.pi / 4
        direction = torch.tensor([math.cos(angle), math.sin(angle)])
        direction /= direction.abs().max()
        for point in range(4):
            torch.testing.assert_close(offsets[head, :, point], (direction * (point + 1)).expand(2, 2))
    assert not layer.attention_weights(torch.randn(1, 1, 32)).any()


def test_the_furthest_point_of_a_box_lies_on_its_border():
    """Offset 4 of 4 points times 0.5 / 4 of the box is half a box: from the centre to the edge."""
    layer = DeformableAttention(8, num_heads=8, num_levels=2, num_points=4)
    torch.nn.init.eye_(layer.value_proj.weight)
    torch.nn.init.eye_(layer.output_proj.weight)
    value = torch.zeros(1, NUM_TOKENS, 8)
    # Head 0 looks right: from the centre of cell 1 of 6 with a box of 4 cells it reaches half a cell per point.
    value[0, :6, 0] = torch.arange(6.0)
    box = torch.tensor([[[1.5 / 6, 0.5 / 4, 4 / 6, 0.25]]])
    mixed = layer(torch.zeros(1, 1, 8), box, value, SIZES)[0, 0]
    assert mixed[0].item() == pytest.approx((1.5 + 2 + 2.5 + 3) / 8, rel=1e-4)
