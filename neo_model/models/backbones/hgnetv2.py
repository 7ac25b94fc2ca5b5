"""PP-HGNetV2 (Baidu, 2023), the backbone of the published RT-DETR models beside ResNet-vd.

Every block runs a chain of small convolutions and squeezes all their outputs, and its input, into one map. Module names
are those of the published files.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.models.backbones.pretrained import load_pretrained
from neo_model.models.layers import FrozenBatchNorm2d, normalized
from neo_model.models.recompute import run

RELEASE = "https://github.com/lyuwenyu/storage/releases/download/v0.1"
CHAIN = 6  # convolutions in a block


class Widths(NamedTuple):
    """Of a size: channels of the stem's inside and end, and for each stage the chain's and the output's and the blocks.
    """

    stem: tuple[int, int]
    chain: tuple[int, int, int, int]
    out: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]


SIZES = {
    "L": Widths((32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1)),
    "X": Widths((32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2)),
    "H": Widths((48, 96), (96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3)),
}


class PaddedConv(nn.Sequential):
    """A 2x2 convolution that pads a line below and a column on the right, so that the size stays."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(in_channels, out_channels, 2, bias=False))


class ConvBatchNorm(nn.Module):
    """Convolution without bias, batch norm and, unless told otherwise, ReLU; sizes are ``ceil(size / stride)``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        frozen_norm: bool,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size == 2:
            self.conv = PaddedConv(in_channels, out_channels)
        else:
            self.conv = nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
            )
        self.bn = FrozenBatchNorm2d(out_channels) if frozen_norm else nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if isinstance(conv, PaddedConv):
            pad, conv = conv
            x = pad(x)
        return self.act(normalized(x, conv, self.bn))


class LightConv(nn.Module):
    """A 1x1 convolution, then a large one on each channel by itself."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, frozen_norm: bool) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(in_channels, out_channels, kernel_size=1, relu=False, frozen_norm=frozen_norm)
        self.conv2 = ConvBatchNorm(
            out_channels, out_channels, kernel_size=kernel_size, groups=out_channels, frozen_norm=frozen_norm
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Stem(nn.Module):
    """Images to maps at stride 4: two small convolutions beside a pooling, between strided ones."""

    def __init__(self, hidden: int, out_channels: int, *, frozen_norm: bool) -> None:
        super().__init__()

        def conv(n: int, m: int, kernel_size: int, stride: int = 1) -> ConvBatchNorm:
            return ConvBatchNorm(n, m, kernel_size=kernel_size, stride=stride, frozen_norm=frozen_norm)

        self.stem1 = conv(3, hidden, 3, 2)
        self.stem2a = conv(hidden, hidden // 2, 2)
        self.stem2b = conv(hidden // 2, hidden, 2)
        self.stem3 = conv(2 * hidden, hidden, 3, 2)
        self.stem4 = conv(hidden, out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem1(images)
        pooled = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2, stride=1)
        return self.stem4(self.stem3(torch.cat((pooled, self.stem2b(self.stem2a(x))), dim=1)))


class Block(nn.Module):
    """A chain of convolutions whose outputs, all of them and the input, are squeezed into one map."""

    def __init__(
        self, in_channels: int, chain: int, out_channels: int, *, light: bool, residual: bool, frozen_norm: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        kind, kernel_size = (LightConv, 5) if light else (ConvBatchNorm, 3)
        self.layers = nn.ModuleList(
            kind(chain if i else in_channels, chain, kernel_size=kernel_size, frozen_norm=frozen_norm)
            for i in range(CHAIN)
        )
        total, half = in_channels + CHAIN * chain, out_channels // 2
        self.aggregation_squeeze_conv = ConvBatchNorm(total, half, kernel_size=1, frozen_norm=frozen_norm)
        self.aggregation_excitation_conv = ConvBatchNorm(half, out_channels, kernel_size=1, frozen_norm=frozen_norm)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        squeezed = self.aggregation_excitation_conv(self.aggregation_squeeze_conv(torch.cat(outputs, dim=1)))
        return squeezed + x if self.residual else squeezed


class Stage(nn.Module):
    """Blocks of one resolution; all stages but the first halve the size before."""

    def __init__(
        self,
        in_channels: int,
        chain: int,
        out_channels: int,
        *,
        depth: int,
        halve: bool,
        light: bool,
        frozen_norm: bool,
    ) -> None:
        super().__init__()
        self.downsample = nn.Identity()
        if halve:
            self.downsample = ConvBatchNorm(
                in_channels,
                in_channels,
                kernel_size=3,
                stride=2,
                groups=in_channels,
                relu=False,
                frozen_norm=frozen_norm,
            )
        self.blocks = nn.ModuleList(
            Block(
                out_channels if i else in_channels,
                chain,
                out_channels,
                light=light,
                residual=i > 0,
                frozen_norm=frozen_norm,
            )
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = run(block, x)
        return x


class HGNetV2(nn.Module):
    """PP-HGNetV2 feature pyramid, [B, 3, H, W] -> three maps at strides 8, 16 and 32 (sizes round up).

    Args:
        size: L, X or H.
        weights: ``imagenet`` fetches the published ImageNet weights, a path reads a local state dict, None starts
            from random values.
        freeze_stem: the stem's parameters take no gradient (as published).
        freeze_norm: batch norm with fixed statistics everywhere (as published).

    Raises:
        UserError: the weights cannot be fetched or do not fit.
    """

    pixel_mean = (0.0, 0.0, 0.0)  # published weights expect pixel / 255 and nothing more
    pixel_std = (1.0, 1.0, 1.0)

    def __init__(
        self,
        *,
        size: Literal["L", "X", "H"],
        weights: str | None = None,
        freeze_stem: bool = False,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = SIZES[size]
        self.stem = Stem(*widths.stem, frozen_norm=freeze_norm)
        inputs = (widths.stem[1], *widths.out[:-1])
        self.stages = nn.ModuleList(
            Stage(*channels, depth=depth, halve=i > 0, light=i > 1, frozen_norm=freeze_norm)
            for i, (*channels, depth) in enumerate(zip(inputs, widths.chain, widths.out, widths.blocks, strict=True))
        )
        self.out_channels = list(widths.out[1:])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        if weights is not None:
            load_pretrained(self, weights, url=f"{RELEASE}/PPHGNetV2_{size}_ssld_pretrained_from_paddle.pth")
        if freeze_stem:
            self.stem.requires_grad_(False)

    @property
    def blocks(self) -> list[nn.Module]:
        """What can be recomputed on its own."""
        return [block for stage in self.stages for block in stage.blocks]

    @property
    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters of the stem and of each stage."""
        return [list(part.parameters()) for part in (self.stem, *self.stages)]

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]
