"""Backbones: modules with ``out_channels`` (strides 8, 16, 32), ``pixel_mean`` and ``pixel_std``."""

from neo_model.models.backbones.hgnetv2 import HGNetV2
from neo_model.models.backbones.resnet_vd import ResNetVD
from neo_model.models.backbones.torchvision_resnet import TorchvisionResNet

__all__ = ["HGNetV2", "ResNetVD", "TorchvisionResNet"]
