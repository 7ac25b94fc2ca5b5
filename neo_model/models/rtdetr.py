"""RT-DETR: a convolutional backbone, the hybrid encoder and the query-selecting decoder (Zhao et al. 2023; Lv et al.
2024 for version 2)."""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

from neo_model.models.decoder import Decoder
from neo_model.models.encoder import HybridEncoder
from neo_model.utils import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class RTDETR(nn.Module):
    """A detector for images of any height and width from 64 pixels.

    Args:
        backbone: module with ``out_channels`` of its maps at strides 8, 16, 32, ``pixel_mean``, ``pixel_std``, and the
            list ``blocks`` of what can be recomputed on its own (see `neo_model.models.backbones`).
        num_classes: classes, background not counted.
        version: 1 or 2, which of the two the weights are for. Their decoders differ in names, in rounding, and in what
            ``num_points`` and ``sampling`` may be.
        encoder_dim, encoder_feedforward_dim, encoder_expansion, num_encoder_layers: sizes of the hybrid encoder.
        decoder_dim, decoder_feedforward_dim, num_decoder_layers: sizes of the decoder.
        eval_decoder_layer: index of the layer that evaluation stops at; None is the last.
        num_heads: heads of every attention.
        num_points: sampling points per head: on each map, or in version 2 a list of one number a map.
        sampling: how a map is read at a point: ``bilinear`` between four pixels, or in version 2 ``discrete``, one
            pixel.
        num_queries: detections per image at most.
        num_denoising, label_noise_ratio, box_noise_scale: denoising queries in training; 0 queries turns them off.
    """

    decoder_class: type[Decoder] = Decoder  # for a subclass with a decoder of its own

    def __init__(
        self,
        *,
        backbone: nn.Module,
        num_classes: PositiveInt,
        version: Literal[1, 2] = 1,
        encoder_dim: PositiveInt = 256,
        encoder_feedforward_dim: PositiveInt = 1024,
        encoder_expansion: PositiveFloat = 1.0,
        num_encoder_layers: PositiveInt = 1,
        decoder_dim: PositiveInt = 256,
        decoder_feedforward_dim: PositiveInt = 1024,
        num_decoder_layers: PositiveInt = 6,
        eval_decoder_layer: NonNegativeInt | None = None,
        num_heads: PositiveInt = 8,
        num_points: PositiveInt | list[PositiveInt] = 4,
        sampling: Literal["bilinear", "discrete"] = "bilinear",
        num_queries: PositiveInt = 300,
        num_denoising: NonNegativeInt = 100,
        label_noise_ratio: Fraction = 0.5,
        box_noise_scale: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__()
        if eval_decoder_layer is not None and eval_decoder_layer >= num_decoder_layers:
            raise ValueError(f"eval_decoder_layer={eval_decoder_layer} needs more than {num_decoder_layers} layers")
        if encoder_dim % num_heads or decoder_dim % num_heads:
            dims = f"encoder_dim={encoder_dim} and decoder_dim={decoder_dim}"
            raise ValueError(f"num_heads={num_heads} must divide {dims}")
        if encoder_dim % 4:
            raise ValueError(f"encoder_dim={encoder_dim} must be a multiple of 4")
        if version == 1 and (sampling != "bilinear" or isinstance(num_points, list)):
            raise ValueError("discrete sampling and a list of num_points need version=2")
        self.num_classes, self.version = num_classes, version
        self.backbone = backbone
        self.encoder = HybridEncoder(
            in_channels=backbone.out_channels,
            dim=encoder_dim,
            feedforward_dim=encoder_feedforward_dim,
            expansion=encoder_expansion,
            num_heads=num_heads,
            num_layers=num_encoder_layers,
        )
        self.decoder = self.decoder_class(
            in_channels=[encoder_dim] * len(backbone.out_channels),
            num_classes=num_classes,
            version=version,
            dim=decoder_dim,
            feedforward_dim=decoder_feedforward_dim,
            num_layers=num_decoder_layers,
            eval_layer=eval_decoder_layer,
            num_heads=num_heads,
            num_points=_of_each_map(num_points, num_maps=len(backbone.out_channels)),
            sampling=sampling,
            num_queries=num_queries,
            num_denoising=num_denoising,
            label_noise_ratio=label_noise_ratio,
            box_noise_scale=box_noise_scale,
        )
        self.register_buffer("pixel_mean", torch.tensor(backbone.pixel_mean).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(backbone.pixel_std).view(3, 1, 1))

    def recompute(self, parts: Collection[Literal["backbone", "encoder"]]) -> None:
        """Keep only the inputs of the blocks of these parts in training and run the blocks again in the backward pass;
        less memory for more time, the same gradients."""
        for part in ("backbone", "encoder"):
            for block in getattr(self, part).blocks:
                block.recomputed = part in parts

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> dict:
        """Detect objects.

        Args:
            images: [B, 3, H, W] RGB, float in 0..1 or uint8; normalised here by the buffers the weights call for.
            targets: in training, per image ``labels`` int64 [n] and ``boxes`` float32 [n, 4] cxcywh in 0..1.

        Returns:
            ``pred_logits`` [B, Q, C], ``pred_boxes`` [B, Q, 4] cxcywh in 0..1; in training the outputs of the other
            layers as well, see `neo_model.models.decoder.Decoder.forward`.
        """
        return self.decoder(self.encoder(self.backbone(self._normalized(images))), targets)

    def _normalized(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            return images.to(self.pixel_mean.dtype).div_(255).sub_(self.pixel_mean).div_(self.pixel_std)
        return (images - self.pixel_mean).div_(self.pixel_std)


def _of_each_map(num_points: int | list[int], *, num_maps: int) -> list[int]:
    if not isinstance(num_points, list):
        return [num_points] * num_maps
    if len(num_points) != num_maps:
        raise ValueError(f"num_points={num_points} must have {num_maps} numbers, one for each map")
    return num_points
