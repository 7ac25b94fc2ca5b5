"""The hybrid encoder: attention within the coarsest map, then a top-down and a bottom-up pyramid.

RT-DETR, Zhao et al. 2023, section 4.2. Shapes: B batch, C channels, H x W map, S = H * W tokens, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.models.layers import ConvNorm, SelfAttention
from neo_model.models.norm_silu import joined, normalized_silu
from neo_model.models.recompute import run


def sincos_position(height: int, width: int, dim: int, *, temperature: float = 10_000.0) -> Tensor:
    """Sine-cosine position embedding [height * width, dim] of row-major tokens.

    The first half of the channels (sines, then cosines) encodes the row, the second half the column. On a square
    this is what published weights were trained with; the published code transposes it on rectangles.
    """
    quarter = dim // 4
    frequency = 1.0 / temperature ** (torch.arange(quarter, dtype=torch.float32) / quarter)
    row = torch.arange(height, dtype=torch.float32)[:, None] * frequency
    column = torch.arange(width, dtype=torch.float32)[:, None] * frequency
    row = torch.cat((row.sin(), row.cos()), dim=1)[:, None].expand(-1, width, -1)
    column = torch.cat((column.sin(), column.cos()), dim=1)[None].expand(height, -1, -1)
    return torch.cat((row, column), dim=2).flatten(0, 1)


def upsampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest neighbours at a finer map's own size: twice the coarse one is a line too many where a size was odd.

    Outside autocast, which would widen a copy of pixels to float32, and with it the whole concatenation behind it.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, size=size, mode="nearest")


class IntraScaleAttention(nn.Module):
    """One post-norm transformer encoder layer over the tokens of a single map (AIFI), [B, S, D] -> [B, S, D]."""

    def __init__(self, dim: int, *, feedforward_dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, num_heads=num_heads)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens_BSD: Tensor, position_BSD: Tensor) -> Tensor:
        tokens_BSD = self.norm1(tokens_BSD + self.self_attn(tokens_BSD, position_BSD))
        return self.norm2(tokens_BSD + self.linear2(F.gelu(self.linear1(tokens_BSD))))


class RepVGGBlock(nn.Module):
    """Parallel 3x3 and 1x1 convolutions, summed (Ding et al. 2021); no identity branch, as published."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, kernel_size=3)
        self.conv2 = ConvNorm(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return normalized_silu([self.conv1.conv(x), self.conv2.conv(x)], [self.conv1.norm, self.conv2.norm])


class FusionBlock(nn.Module):
    """Cross-stage-partial fusion of maps side by side: one path through three RepVGG blocks, one past them."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: float) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.conv1 = ConvNorm(in_channels, hidden, kernel_size=1, activation=nn.SiLU)
        self.conv2 = ConvNorm(in_channels, hidden, kernel_size=1, activation=nn.SiLU)
        self.bottlenecks = nn.Sequential(*(RepVGGBlock(hidden) for _ in range(3)))
        same = hidden == out_channels
        self.conv3 = nn.Identity() if same else ConvNorm(hidden, out_channels, kernel_size=1, activation=nn.SiLU)

    def forward(self, *maps: Tensor) -> Tensor:
        x = joined(*maps)
        return self.conv3(self.bottlenecks(self.conv1(x)).add_(self.conv2(x)))


class HybridEncoder(nn.Module):
    """Three backbone maps to three maps of one width at the same strides; any H and W.

    Args:
        in_channels: channels of the maps at strides 8, 16, 32.
        dim: channels of every output map.
        num_layers: attention layers on the coarsest map.
        feedforward_dim: inner width of their MLPs.
        expansion: inner width of the fusion blocks as a share of ``dim``.
        num_heads: attention heads.

    Raises:
        ValueError: the fusion blocks would have no channels.
    """

    def __init__(
        self,
        *,
        in_channels: list[int],
        dim: int,
        feedforward_dim: int,
        expansion: float,
        num_heads: int,
        num_layers: int = 1,
    ) -> None:
        super().__init__()
        if int(dim * expansion) < 1:
            raise ValueError(f"encoder_expansion={expansion} of encoder_dim={dim} is less than one channel")
        self.dim = dim
        self.input_proj = nn.ModuleList(ConvNorm(c, dim, kernel_size=1) for c in in_channels)
        layers = [
            IntraScaleAttention(dim, feedforward_dim=feedforward_dim, num_heads=num_heads) for _ in range(num_layers)
        ]
        self.encoder = nn.ModuleList([nn.ModuleDict({"layers": nn.ModuleList(layers)})])
        steps = len(in_channels) - 1
        self.lateral_convs = nn.ModuleList(
            ConvNorm(dim, dim, kernel_size=1, activation=nn.SiLU) for _ in range(steps)
        )
        self.fpn_blocks = nn.ModuleList(FusionBlock(2 * dim, dim, expansion=expansion) for _ in range(steps))
        self.downsample_convs = nn.ModuleList(
            ConvNorm(dim, dim, kernel_size=3, stride=2, activation=nn.SiLU) for _ in range(steps)
        )
        self.pan_blocks = nn.ModuleList(FusionBlock(2 * dim, dim, expansion=expansion) for _ in range(steps))
        self._positions: dict[tuple, Tensor] = {}

    @property
    def blocks(self) -> list[nn.Module]:
        """What can be recomputed on its own."""
        return [*self.encoder[0]["layers"], *self.fpn_blocks, *self.pan_blocks]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [project(x) for project, x in zip(self.input_proj, maps, strict=True)]
        maps[-1] = self._attend(maps[-1])

        top_down = [maps[-1]]
        for lateral, fuse, fine in zip(self.lateral_convs, self.fpn_blocks, reversed(maps[:-1]), strict=True):
            coarse = top_down[0] = lateral(top_down[0])
            top_down.insert(0, run(fuse, upsampled(coarse, fine.shape[-2:]), fine))

        outputs = [top_down[0]]
        for downsample, fuse, coarse in zip(self.downsample_convs, self.pan_blocks, top_down[1:], strict=True):
            outputs.append(run(fuse, downsample(outputs[-1]), coarse))
        return outputs

    def _attend(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        position = self._position(H, W, x_BCHW)
        tokens = x_BCHW.flatten(2).transpose(1, 2)
        for layer in self.encoder[0]["layers"]:
            tokens = run(layer, tokens, position)
        attended = tokens.transpose(1, 2).reshape(B, C, H, W)  # channels last, as the tokens are
        return attended.contiguous() if x_BCHW.is_contiguous() else attended

    def _position(self, height: int, width: int, like: Tensor) -> Tensor:
        """The embedding [1, S, D] in the activation's dtype, kept by size outside the state dict."""
        if torch.compiler.is_compiling():  # a graph that had met the dictionary empty would not do once it is filled
            return sincos_position(height, width, self.dim).to(like.device, like.dtype)[None]
        key = (height, width, like.device, like.dtype)
        if key not in self._positions:
            with torch.inference_mode(False):  # a first call under inference_mode must not spoil later training
                self._positions[key] = sincos_position(height, width, self.dim).to(like.device, like.dtype)[None]
        return self._positions[key]
