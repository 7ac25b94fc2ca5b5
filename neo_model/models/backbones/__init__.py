"""Backbones: modules with ``out_channels`` (strides 8, 16, 32), ``pixel_mean``, ``pixel_std``, the list ``blocks`` of
what can be recomputed on its own, and ``layers``, lists of parameters from the images on."""

from neo_model.models.backbones.hgnetv2 import HGNetV2
from neo_model.models.backbones.resnet_vd import ResNetVD
from neo_model.models.backbones.timm_backbone import TimmBackbone
from neo_model.models.backbones.torchvision_resnet import TorchvisionResNet

__all__ = ["HGNetV2", "ResNetVD", "TimmBackbone", "TorchvisionResNet"]
