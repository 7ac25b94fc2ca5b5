"""Multi-scale deformable attention (Zhu et al. 2021, eq. 3): every query reads a few points of every map.

Shapes: B batch, S tokens of all maps of an image, N = B * S, Q queries, M heads, L levels, P points, D width, K = D / M.

The equation projects every token to values, samples the values and mixes the samples. All three are linear in the
tokens, so the order is free: `mix_then_project` first mixes raw tokens for each query and head and then projects those
Q * M mixtures, which at 1920x1080 saves the projection of 42,600 tokens in every layer.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.models.layers import rounds_as_published
from neo_model.models.token_mixing import mix_tokens

# Tokens for each query from which mixing first is the faster order; measured on a CPU with 60 to 500 queries.
MIX_FIRST_FROM = 4
# Where a layer rounds as published it has to gain more: 4.2 tokens a query gain 1.5 times, 17 gain 2 times.
MIX_FIRST_FROM_AS_PUBLISHED = 16


@dataclass(frozen=True)
class Tokens:
    """The maps of a batch as rows of one matrix: level after level, in it image after image, in it row-major.

    In this order every map is a contiguous block, so neither the maps nor their gradients are ever copied apart.

    Attributes:
        rows_ND: [N, D].
        batch_size: B.
        sizes: (height, width) of each level.
    """

    rows_ND: Tensor
    batch_size: int
    sizes: list[tuple[int, int]]

    @classmethod
    def of(cls, maps: list[Tensor]) -> "Tokens":
        """From L maps [B, D, H, W]."""
        rows = [x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in maps]
        return cls(torch.cat(rows), len(maps[0]), [tuple(x.shape[-2:]) for x in maps])

    @property
    def counts(self) -> list[int]:
        """Tokens of each level of one image; their sum is S."""
        return [height * width for height, width in self.sizes]

    def first_rows(self) -> Tensor:
        """The row [B, L] at which the map of an image and a level begins, int64."""
        counts = torch.tensor(self.counts)
        starts = (counts.cumsum(0) - counts) * self.batch_size
        return starts + torch.arange(self.batch_size)[:, None] * counts


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

    def forward(self, query_BQD: Tensor, reference_BQ4: Tensor, memory: Tokens) -> Tensor:
        """Attend to ``memory`` around the boxes ``reference_BQ4`` (cxcywh in 0..1) -> [B, Q, D]."""
        B, Q, _ = query_BQD.shape
        shape = (B, Q, self.num_heads, self.num_levels, self.num_points)
        # Positions in float32 always: bfloat16 has 8 bits, less than a pixel at 1920.
        offsets = self.sampling_offsets(query_BQD).float().view(*shape, 2)
        centre, size = reference_BQ4.float()[:, :, None, None, None].split(2, dim=-1)
        locations = centre + offsets * size * (0.5 / self.num_points)
        weights = self.attention_weights(query_BQD).float().view(B, Q, self.num_heads, -1).softmax(dim=-1).view(shape)
        mix = mix_then_project if mixing_first_pays(memory, Q) else project_then_mix
        return self.output_proj(mix(self.value_proj, memory, locations, weights))


def mixing_first_pays(memory: Tokens, num_queries: int) -> bool:
    """Whether there are so many more tokens than queries; torch has no gradient of it for bfloat16 on a GPU."""
    if memory.rows_ND.is_cuda and memory.rows_ND.dtype == torch.bfloat16 and memory.rows_ND.requires_grad:
        return False
    least = MIX_FIRST_FROM_AS_PUBLISHED if rounds_as_published(memory.rows_ND) else MIX_FIRST_FROM
    return sum(memory.counts) >= least * num_queries


def project_then_mix(value_proj: nn.Linear, memory: Tokens, locations_BQMLP2: Tensor, weights_BQMLP: Tensor) -> Tensor:
    """The equation as it is written: bilinear samples (zero outside the map) of each head's share of the projected
    tokens, mixed by the weights -> [B, Q, D]."""
    B, Q, M, L, P, _ = locations_BQMLP2.shape
    grid = (2 * locations_BQMLP2 - 1).permute(3, 0, 2, 1, 4, 5).reshape(L, B * M, Q, P, 2)
    values_ND = value_proj(memory.rows_ND)
    samples = []
    for (height, width), level_grid, value in zip(
        memory.sizes, grid, values_ND.split([B * count for count in memory.counts]), strict=True
    ):
        # In float32, as the positions are: the kernel takes values and positions of one type only.
        value_map = value.float().view(B, height, width, M, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        samples.append(F.grid_sample(value_map, level_grid, padding_mode="zeros", align_corners=False))
    weights = weights_BQMLP.permute(0, 2, 1, 3, 4).reshape(B * M, 1, Q, L * P)
    mixed = (torch.cat(samples, dim=-1) * weights).sum(-1)
    return mixed.view(B, -1, Q).transpose(1, 2).to(values_ND.dtype)


def mix_then_project(value_proj: nn.Linear, memory: Tokens, locations_BQMLP2: Tensor, weights_BQMLP: Tensor) -> Tensor:
    """The same by mixing raw tokens first -> [B, Q, D].

    Head m's share of a projected token x is W_m x + b_m, so the mixture of shares is W_m (sum of w x) + b_m (sum of w).
    The sum of w runs over the corners that lie inside the maps: outside, a value is zero and not the bias.
    """
    B, Q, M, _, _, _ = locations_BQMLP2.shape
    # Head by head from here on: each head's mixtures, and their gradients, are a matrix of their own to multiply.
    locations_MBQLP2 = locations_BQMLP2.permute(2, 0, 1, 3, 4, 5).contiguous()
    index, share = corners(memory, locations_MBQLP2, weights_BQMLP.permute(2, 0, 1, 3, 4).contiguous())
    mixed = mix_tokens(memory.rows_ND, index, share.to(memory.rows_ND.dtype)).view(M, B * Q, -1)
    weight_MDK = value_proj.weight.view(M, -1, mixed.shape[-1]).transpose(1, 2)
    heads = mixed @ weight_MDK.to(mixed.dtype)
    mass = share.sum(-1).view(M, B * Q, 1)
    heads = heads + (mass * value_proj.bias.view(M, 1, -1)).to(heads.dtype)
    return heads.transpose(0, 1).reshape(B, Q, -1)


def corners(memory: Tokens, locations_MBQLP2: Tensor, weights_MBQLP: Tensor) -> tuple[Tensor, Tensor]:
    """The four tokens around every point, and how much each of them counts.

    Returns:
        rows of ``memory`` int32 [M * B * Q, 4 * L * P], and bilinear share times weight, float32 of the same shape;
        a corner outside its map is row 0 with share 0.
    """
    device = locations_MBQLP2.device
    sizes_L2 = torch.tensor([(w, h) for h, w in memory.sizes], dtype=torch.float32).to(device, non_blocking=True)
    first_BL = memory.first_rows().to(device, torch.int32, non_blocking=True)
    (column, share_x), (line, share_y) = (
        _neighbours(position, size_L[:, None]) for position, size_L in zip(locations_MBQLP2.unbind(-1), sizes_L2.T)
    )
    first_of_line = line * sizes_L2[:, :1].to(torch.int32) + first_BL[:, None, :, None]
    row = first_of_line[:, None] + column
    share = share_y[:, None] * (share_x * weights_MBQLP)
    # The four corners come first until here, [2, 2, M, B, Q, L, P]: on a CPU, operations on rows of two are slow.
    return tuple(x.flatten(5).flatten(2, 4).permute(2, 0, 1, 3).flatten(1) for x in (row, share))


def _neighbours(location: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The two pixels beside a point along one axis.

    Args:
        location: float32, in 0..1.
        size: pixels along the axis, of each level.

    Returns:
        pixels int32 [2, ...] and their shares float32 [2, ...]; both 0 for a pixel outside the map.
    """
    position = location * size - 0.5  # in pixels from the centre of the first one
    with torch.no_grad():
        low = position.floor()
        pixel = torch.stack((low, low + 1))
        inside = (pixel >= 0) & (pixel < size)
        # Also where a position is NaN: the pixel exists, and the NaN comes through in the share.
        pixel = pixel.masked_fill_(~inside, 0).to(torch.int32)
    part = position - low
    return pixel, torch.stack((1 - part, part)) * inside
