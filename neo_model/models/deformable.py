"""Multi-scale deformable attention (Zhu et al. 2021, eq. 3): every query reads a few points of every map.

RT-DETRv2 (Lv et al. 2024, section 3) lets levels have different numbers of points, and reads the pixel at a point
instead of mixing the four around it, for devices without the bilinear operator. Shapes: B batch, S tokens of all maps
of an image, N = B * S, Q queries, M heads, L levels, P points of all levels, D width, K = D / M.

The equation projects every token to values, samples the values and mixes the samples. All three are linear in the
tokens, so the order is free: `mix_then_project` first mixes raw tokens for each query and head and then projects those
Q * M mixtures, which at 1920x1080 saves the projection of 42,600 tokens in every layer.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.models.layers import at_least_float32, rounds_as_published
from neo_model.models.token_mixing import mix_tokens
from neo_model.ops.targets import to_device

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


@dataclass(frozen=True)
class Points:
    """Where the heads look, level after level, and how much each place counts.

    Attributes:
        locations_BQMP2: x and y in 0..1 of the maps, at least float32.
        weights_BQMP: of the same type.
        counts: points of each level; their sum is P.
        discrete: read the pixel at a point, the nearest one if that is outside the map, instead of mixing the four
            pixels around it, those outside taken as zero.
    """

    locations_BQMP2: Tensor
    weights_BQMP: Tensor
    counts: list[int]
    discrete: bool = False


class DeformableAttention(nn.Module):
    """Cross-attention of queries to points around their reference boxes.

    Args:
        dim: width D.
        num_heads: M.
        num_points: points of a head, for each level.
        sampling: how a map is read at a point, see `Points`. Discrete reading gives the offsets no gradient, so they
            are frozen, as published.
        keep_scale: whether the state dict holds ``num_points_scale``, as RT-DETRv2's does.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_points: list[int],
        sampling: Literal["bilinear", "discrete"] = "bilinear",
        keep_scale: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_points, self.sampling = num_heads, num_points, sampling
        points = num_heads * sum(num_points)
        self.sampling_offsets = nn.Linear(dim, points * 2)
        self.attention_weights = nn.Linear(dim, points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        scale_P = torch.tensor([1 / count for count in num_points for _ in range(count)])
        self.register_buffer("num_points_scale", scale_P, persistent=keep_scale)
        self._initialise()
        if sampling == "discrete":
            self.sampling_offsets.requires_grad_(False)

    def _initialise(self) -> None:
        """Heads look in 8 directions, point p reaching p steps; all points weigh the same at first."""
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        reach_P = torch.cat([torch.arange(1, count + 1, dtype=torch.float32) for count in self.num_points])
        grid = direction[:, None] * reach_P[:, None]
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
        offsets = at_least_float32(self.sampling_offsets(query_BQD)).view(B, Q, self.num_heads, -1, 2)
        centre, size = at_least_float32(reference_BQ4)[:, :, None, None].split(2, dim=-1)
        locations = centre + offsets * at_least_float32(self.num_points_scale)[:, None] * size * 0.5
        weights = at_least_float32(self.attention_weights(query_BQD)).view(B, Q, self.num_heads, -1).softmax(dim=-1)
        points = Points(locations, weights, self.num_points, self.sampling == "discrete")
        mix = mix_then_project if mixing_first_pays(memory, Q) else project_then_mix
        return self.output_proj(mix(self.value_proj, memory, points))


def mixing_first_pays(memory: Tokens, num_queries: int) -> bool:
    """Whether there are so many more tokens than queries."""
    least = MIX_FIRST_FROM_AS_PUBLISHED if rounds_as_published(memory.rows_ND) else MIX_FIRST_FROM
    return sum(memory.counts) >= least * num_queries


def project_then_mix(value_proj: nn.Linear, memory: Tokens, points: Points) -> Tensor:
    """The equation as it is written: samples of each head's share of the projected tokens, mixed by the weights
    -> [B, Q, D]."""
    B, Q, M, P, _ = points.locations_BQMP2.shape
    locations = points.locations_BQMP2.transpose(1, 2).flatten(0, 1).split(points.counts, dim=2)
    values_ND = value_proj(memory.rows_ND)
    samples = []
    for (height, width), location, value in zip(
        memory.sizes, locations, values_ND.split([B * count for count in memory.counts]), strict=True
    ):
        # As wide as the positions are: the kernel takes values and positions of one type only.
        value_map = at_least_float32(value).view(B, height, width, M, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        if points.discrete:
            column, line = (_pixel(x, size) for x, size in zip(location.unbind(-1), (width, height), strict=True))
            pixel = (line * width + column).flatten(1)[:, None].expand(-1, value_map.shape[1], -1)
            samples.append(value_map.flatten(2).gather(2, pixel).unflatten(2, (Q, -1)))
        else:
            samples.append(F.grid_sample(value_map, 2 * location - 1, padding_mode="zeros", align_corners=False))
    weights = points.weights_BQMP.transpose(1, 2).reshape(B * M, 1, Q, P)
    mixed = (torch.cat(samples, dim=-1) * weights).sum(-1)
    return mixed.view(B, -1, Q).transpose(1, 2).to(values_ND.dtype)


def mix_then_project(value_proj: nn.Linear, memory: Tokens, points: Points) -> Tensor:
    """The same by mixing raw tokens first -> [B, Q, D].

    Head m's share of a projected token x is W_m x + b_m, so the mixture of shares is W_m (sum of w x) + b_m (sum of w).
    The sum of w runs over the corners that lie inside the maps: outside, a value is zero and not the bias.
    """
    B, Q, M, _ = points.weights_BQMP.shape
    index, share = (nearest if points.discrete else corners)(memory, points)
    mixed = mix_tokens(memory.rows_ND, index, share.to(memory.rows_ND.dtype)).view(M, B * Q, -1)
    weight_MDK = value_proj.weight.view(M, -1, mixed.shape[-1]).transpose(1, 2)
    heads = mixed @ weight_MDK.to(mixed.dtype)
    mass = share.sum(-1).view(M, B * Q, 1)
    heads = heads + (mass * value_proj.bias.view(M, 1, -1)).to(heads.dtype)
    return heads.transpose(0, 1).reshape(B, Q, -1)


def corners(memory: Tokens, points: Points) -> tuple[Tensor, Tensor]:
    """The four tokens around every point, and how much each of them counts.

    Returns:
        rows of ``memory`` int32 [M * B * Q, 4 * P], and bilinear share times weight, of the same shape; a
        corner outside its map is row 0 with share 0.
    """
    # Head by head from here on: each head's mixtures, and their gradients, are a matrix of their own to multiply.
    locations_MBQP2 = points.locations_BQMP2.permute(2, 0, 1, 3, 4).contiguous()
    weights_MBQP = points.weights_BQMP.permute(2, 0, 1, 3).contiguous()
    sizes_P2, first_BP = _levels_of(points.counts, memory, locations_MBQP2.device)
    (column, share_x), (line, share_y) = (
        _neighbours(position, size_P) for position, size_P in zip(locations_MBQP2.unbind(-1), sizes_P2.T, strict=True)
    )
    first_of_line = line * sizes_P2[:, 0].to(torch.int32) + first_BP[:, None]
    row = first_of_line[:, None] + column
    share = share_y[:, None] * (share_x * weights_MBQP)
    # The four corners come first until here, [2, 2, M, B, Q, P]: on a CPU, operations on rows of two are slow.
    return tuple(x.flatten(2, 4).permute(2, 0, 1, 3).flatten(1) for x in (row, share))


def nearest(memory: Tokens, points: Points) -> tuple[Tensor, Tensor]:
    """The token of every point, int32, and its weight, both [M * B * Q, P]."""
    locations_MBQP2 = points.locations_BQMP2.permute(2, 0, 1, 3, 4)
    sizes_P2, first_BP = _levels_of(points.counts, memory, locations_MBQP2.device)
    column, line = (
        _pixel(position, size_P) for position, size_P in zip(locations_MBQP2.unbind(-1), sizes_P2.T, strict=True)
    )
    row = line * sizes_P2[:, 0].to(torch.int64) + column + first_BP[:, None]
    return row.to(torch.int32).flatten(0, 2), points.weights_BQMP.permute(2, 0, 1, 3).flatten(0, 2)


def _levels_of(counts: list[int], memory: Tokens, device: torch.device) -> tuple[Tensor, Tensor]:
    """For every point its map's width and height, float32 [P, 2], and the first row of each image's, int32 [B, P]."""
    level_P = [level for level, count in enumerate(counts) for _ in range(count)]
    sizes_P2 = torch.tensor([memory.sizes[level][::-1] for level in level_P], dtype=torch.float32)
    first_BP = memory.first_rows()[:, level_P].to(torch.int32)
    return to_device(sizes_P2, device), to_device(first_BP, device)


def _pixel(location: Tensor, size: Tensor | int) -> Tensor:
    """The pixel for a point along one axis, int64: inside the map, also where the point is outside or not a number.

    As published it is the one whose left or upper edge is nearest, not the one that the point lies in: weights were
    trained with it.
    """
    return (location * size + 0.5).clamp(max=size - 1).to(torch.int64).clamp(min=0)


def _neighbours(location: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The two pixels beside a point along one axis.

    Args:
        location: in 0..1.
        size: pixels along the axis, of each point's level.

    Returns:
        pixels int32 [2, ...] and their shares [2, ...]; both 0 for a pixel outside the map.
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
