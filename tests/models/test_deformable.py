"""Deformable attention's sampling, at the sizes of a 1080p image."""

import pytest
import torch

from neo_model.models.deformable import sample_and_mix

HEIGHT, WIDTH = 135, 240  # of the finest level at 1920x1080


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_column_is_found_again_in_either_precision(dtype):
    """Columns alternate between 0 and 1: a position that is half a pixel off shows."""
    columns = torch.arange(WIDTH)
    value_BSD = (columns % 2).to(dtype).repeat(HEIGHT).view(1, HEIGHT * WIDTH, 1)
    locations = torch.stack(((columns + 0.5) / WIDTH, torch.full((WIDTH,), 0.5)), dim=-1)
    mixed = sample_and_mix(
        value_BSD, locations.view(1, WIDTH, 1, 1, 1, 2), torch.ones(1, WIDTH, 1, 1, 1), [(HEIGHT, WIDTH)]
    )
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed.flatten().float(), (columns % 2).float(), atol=0.01, rtol=0)
