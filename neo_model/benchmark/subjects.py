"""The detectors and batches that the benchmarks run: RT-DETR by us and by ``transformers``, of one configuration."""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neo_model.losses import Criterion, HungarianMatcher
from neo_model.models import RTDETR, ResNetVD

NUM_CLASSES = 80
# Published sizes; only R18 and R50 are measured.
ENCODER_EXPANSION = {18: 0.5, 50: 1.0}
DECODER_LAYERS = {18: 3, 50: 6}


@dataclass(frozen=True)
class Batch:
    """Random images and boxes.

    Attributes:
        images: [B, 3, H, W] float32 in 0..1.
        targets: per image ``labels`` int64 [n] and ``boxes`` [n, 4] cxcywh in 0..1.
    """

    images: Tensor
    targets: list[dict[str, Tensor]]

    @property
    def peer_targets(self) -> list[dict[str, Tensor]]:
        """The targets by the names of ``transformers``."""
        return [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in self.targets]


def random_batch(height: int, width: int, *, num_images: int, num_boxes: int, device: str = "cpu") -> Batch:
    """The same batch each time; boxes lie inside the image."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(num_images, 3, height, width, generator=generator).to(device)
    targets = []
    for _ in range(num_images):
        size = torch.rand(num_boxes, 2, generator=generator) * 0.3 + 0.05
        centre = torch.rand(num_boxes, 2, generator=generator) * (1 - size) + size / 2
        labels = torch.randint(NUM_CLASSES, (num_boxes,), generator=generator)
        targets.append({"labels": labels.to(device), "boxes": torch.cat((centre, size), dim=1).to(device)})
    return Batch(images, targets)


def our_model(depth: int, **options) -> RTDETR:
    """RT-DETR R18 or R50 as in conf/model; R50 trains with a frozen stem and frozen batch norm, as published.

    ``options`` are further arguments of `RTDETR`.
    """
    torch.manual_seed(0)
    frozen = depth >= 50
    return RTDETR(
        backbone=ResNetVD(depth=depth, freeze_stem=frozen, freeze_norm=frozen),
        num_classes=NUM_CLASSES,
        encoder_expansion=ENCODER_EXPANSION[depth],
        num_decoder_layers=DECODER_LAYERS[depth],
        **options,
    )


def our_criterion() -> Criterion:
    """The criterion of conf/criterion."""
    return Criterion(num_classes=NUM_CLASSES, matcher=HungarianMatcher())


def peer_model(depth: int) -> nn.Module:
    """``transformers``' RT-DETR with the same layers, queries, classes and frozen parts as `our_model`."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    torch.manual_seed(0)
    frozen, widths = depth >= 50, (64, 128, 256, 512)
    if frozen:
        widths = tuple(width * 4 for width in widths)
    backbone = RTDetrResNetConfig(
        depths=(3, 4, 6, 3) if frozen else (2, 2, 2, 2),
        hidden_sizes=widths,
        layer_type="bottleneck" if frozen else "basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    model = RTDetrForObjectDetection(
        RTDetrConfig(
            backbone_config=backbone,
            freeze_backbone_batch_norms=frozen,
            encoder_in_channels=list(widths[1:]),
            hidden_expansion=ENCODER_EXPANSION[depth],
            decoder_layers=DECODER_LAYERS[depth],
            num_labels=NUM_CLASSES,
        )
    )
    if frozen:
        model.model.backbone.model.embedder.requires_grad_(False)
    return model


def size_argument(text: str) -> tuple[int, int]:
    """``640x480`` (width x height, as everywhere in this project) to (height, width)."""
    width, separator, height = text.partition("x")
    if not separator or not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(height), int(width)
