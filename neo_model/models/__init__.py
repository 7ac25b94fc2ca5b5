"""Detectors: plain `nn.Module`s with keyword arguments."""

from neo_model.models.backbones import HGNetV2, ResNetVD, TimmBackbone, TorchvisionResNet
from neo_model.models.postprocess import postprocess
from neo_model.models.rtdetr import RTDETR
from neo_model.models.weights import load_weights

__all__ = ["HGNetV2", "RTDETR", "ResNetVD", "TimmBackbone", "TorchvisionResNet", "load_weights", "postprocess"]
