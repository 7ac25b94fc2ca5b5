"""Multi-scale deformable attention (Zhu et al. 2021, eq. 3): every query reads a few points of every map.

Shapes: B batch, S tokens of all maps, Q queries, M heads, L levels, P points, D width, K = D / M.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DeformableAttention(nn.Module):
    """Cross-attention of queries to points around their reference boxes.

    Args:
        dim: width D.
        num_heads: M.
        num_levels: L.
        num_points: P, points per head and level.
    """

    def __init__(self, dim: int, *, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        points = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, points * 2)
        self.attention_weights = nn.Linear(dim, points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """Heads look in 8 directions, point p reaching p steps; all points weigh the same at first."""
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        reach = torch.arange(1, self.num_points + 1, dtype=torch.float32)[None, None, :, None]
        grid = direction[:, None, None].expand(-1, self.num_levels, self.num_points, -1) * reach
        with torch.no_grad():
            self.sampling_offsets.weight.zero_()
            self.sampling_offsets.bias.copy_(grid.flatten())
            self.attention_weights.weight.zero_()
            self.attention_weights.bias.zero_()
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query_BQD: Tensor, reference_BQ4: Tensor, memory_BSD: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Attend to ``memory_BSD`` [B, S, D] around the boxes ``reference_BQ4`` (cxcywh in 0..1) -> [B, Q, D].

        ``sizes`` lists (height, width) of the L maps whose row-major tokens make up S.
        """
        B, Q, _ = query_BQD.shape
        shape = (B, Q, self.num_heads, self.num_levels, self.num_points)
        # Positions in float32 always: bfloat16 has 8 bits, less than a pixel at 1920.
        offsets = self.sampling_offsets(query_BQD).float().view(*shape, 2)
        centre, size = reference_BQ4.float()[:, :, None, None, None].split(2, dim=-1)
        locations = centre + offsets * size * (0.5 / self.num_points)
        weights = self.attention_weights(query_BQD).float().view(B, Q, self.num_heads, -1).softmax(dim=-1).view(shape)
        mixed = sample_and_mix(self.value_proj(memory_BSD), locations, weights, sizes)
        return self.output_proj(mixed)


def sample_and_mix(
    value_BSD: Tensor, locations_BQMLP2: Tensor, weights_BQMLP: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """Bilinear samples (zero outside the map) of each head's channels, mixed by the weights -> [B, Q, D]."""
    B, Q, M, L, P, _ = locations_BQMLP2.shape
    grid = (2 * locations_BQMLP2 - 1).permute(3, 0, 2, 1, 4, 5).reshape(L, B * M, Q, P, 2)
    samples = []
    value_levels = value_BSD.split([h * w for h, w in sizes], dim=1)
    for (height, width), value, level_grid in zip(sizes, value_levels, grid, strict=True):
        # In float32, as the positions are: the kernel takes values and positions of one type only.
        value_map = value.float().view(B, height, width, M, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        samples.append(F.grid_sample(value_map, level_grid, padding_mode="zeros", align_corners=False))
    weights = weights_BQMLP.permute(0, 2, 1, 3, 4).reshape(B * M, 1, Q, L * P)
    mixed = (torch.cat(samples, dim=-1) * weights).sum(-1)
    return mixed.view(B, -1, Q).transpose(1, 2).to(value_BSD.dtype)
