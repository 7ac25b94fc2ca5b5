"""ResNet-vd ("bag of tricks" variant D, He et al. 2019), the backbone of the published RT-DETR models.

Three 3x3 convolutions form the stem, and the shortcut of a strided block averages before its 1x1 convolution.
Module names are those of the published files.
"""

from collections import OrderedDict
from typing import Annotated, Literal

from torch import Tensor, nn

from neo_model.models.backbones.pretrained import load_pretrained
from neo_model.models.layers import ConvNorm
from neo_model.models.recompute import run
from neo_model.utils import Bounds

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
RELEASE = "https://github.com/lyuwenyu/storage/releases/download/v0.1"
# ImageNet weights as RT-DETR's authors publish them, by depth.
PUBLISHED = {
    18: f"{RELEASE}/ResNet18_vd_pretrained_from_paddle.pth",
    34: f"{RELEASE}/ResNet34_vd_pretrained_from_paddle.pth",
    50: f"{RELEASE}/ResNet50_vd_ssld_v2_pretrained_from_paddle.pth",
    101: f"{RELEASE}/ResNet101_vd_ssld_pretrained_from_paddle.pth",
}


def _shortcut(in_channels: int, out_channels: int, stride: int, frozen_norm: bool) -> nn.Module:
    """The projection of a stage's first block; with a stride, averaged first (odd sizes round up)."""
    conv = ConvNorm(in_channels, out_channels, kernel_size=1, frozen_norm=frozen_norm)
    if stride == 1:
        return conv
    pool = nn.AvgPool2d(2, 2, ceil_mode=True)
    return nn.Sequential(OrderedDict(pool=pool, conv=conv))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet 18 and 34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int, project: bool, frozen_norm: bool) -> None:
        super().__init__()
        self.branch2a = ConvNorm(
            in_channels, width, kernel_size=3, stride=stride, activation=nn.ReLU, frozen_norm=frozen_norm
        )
        self.branch2b = ConvNorm(width, width, kernel_size=3, frozen_norm=frozen_norm)
        self.short = _shortcut(in_channels, width, stride, frozen_norm) if project else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.branch2b(self.branch2a(x)).add_(self.short(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions and a shortcut (ResNet 50 and 101)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int, project: bool, frozen_norm: bool) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.branch2a = ConvNorm(in_channels, width, kernel_size=1, activation=nn.ReLU, frozen_norm=frozen_norm)
        self.branch2b = ConvNorm(
            width, width, kernel_size=3, stride=stride, activation=nn.ReLU, frozen_norm=frozen_norm
        )
        self.branch2c = ConvNorm(width, out_channels, kernel_size=1, frozen_norm=frozen_norm)
        self.short = _shortcut(in_channels, out_channels, stride, frozen_norm) if project else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.branch2c(self.branch2b(self.branch2a(x))).add_(self.short(x)))


class Stage(nn.Module):
    """Blocks of one resolution; the first one changes width and, but for the first stage, halves the size."""

    def __init__(self, in_channels: int, width: int, *, block: type, depth: int, stride: int, frozen_norm: bool):
        super().__init__()
        out_channels = width * block.expansion
        self.blocks = nn.ModuleList(
            block(
                out_channels if i else in_channels,
                width,
                stride=1 if i else stride,
                project=i == 0,
                frozen_norm=frozen_norm,
            )
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class ResNetVD(nn.Module):
    """ResNet-vd feature pyramid, [B, 3, H, W] -> three maps at strides 8, 16 and 32 (sizes round up).

    Args:
        depth: 18, 34, 50 or 101 as published; 10 is one basic block a stage, for CPUs and tests.
        width: channels after the stem; 64 as published.
        weights: ``imagenet`` fetches the published ImageNet weights, a path reads a local state dict, None starts
            from random values.
        freeze_stem: the stem's parameters take no gradient (published for 50 and 101).
        freeze_norm: batch norm with fixed statistics everywhere (published for 50 and 101).

    Raises:
        UserError: the weights cannot be fetched or do not fit.
    """

    pixel_mean = (0.0, 0.0, 0.0)  # published weights expect pixel / 255 and nothing more
    pixel_std = (1.0, 1.0, 1.0)

    def __init__(
        self,
        *,
        depth: Literal[10, 18, 34, 50, 101],
        width: Annotated[int, Bounds(low=2)] = 64,  # the stem begins with half of it
        weights: str | None = None,
        freeze_stem: bool = False,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        half, block = width // 2, Bottleneck if depth >= 50 else BasicBlock

        def stem_conv(in_channels: int, out_channels: int, **options) -> ConvNorm:
            return ConvNorm(in_channels, out_channels, kernel_size=3, frozen_norm=freeze_norm, **options)

        self.conv1 = nn.Sequential(
            OrderedDict(
                conv1_1=stem_conv(3, half, stride=2, activation=nn.ReLU),
                conv1_2=stem_conv(half, half, activation=nn.ReLU),
                conv1_3=stem_conv(half, width),
            )
        )
        # As published ReLU comes before the maximum; behind it, it gives the same on a quarter of the pixels.
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), nn.ReLU(inplace=True))
        widths = [width * 2**i for i in range(4)]
        inputs = [width, *(w * block.expansion for w in widths[:-1])]
        self.res_layers = nn.ModuleList(
            Stage(n, w, block=block, depth=d, stride=1 if i == 0 else 2, frozen_norm=freeze_norm)
            for i, (n, w, d) in enumerate(zip(inputs, widths, BLOCKS[depth], strict=True))
        )
        self.out_channels = [w * block.expansion for w in widths[1:]]
        self._initialise()
        if weights is not None:
            load_pretrained(self, weights, url=PUBLISHED.get(depth))
        if freeze_stem:
            self.conv1.requires_grad_(False)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def blocks(self) -> list[nn.Module]:
        """What can be recomputed on its own."""
        return list(self.res_layers)

    @property
    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters of the stem and of each stage."""
        return [list(part.parameters()) for part in (self.conv1, *self.res_layers)]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.pool(self.conv1(images))
        maps = []
        for stage in self.res_layers:
            x = run(stage, x)
            maps.append(x)
        return maps[1:]
