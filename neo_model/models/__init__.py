"""Detectors: plain `nn.Module`s with keyword arguments."""

from neo_model.models.backbones import HGNetV2, ResNetVD, TimmBackbone, TorchvisionResNet
from neo_model.models.own import CLASSES
from neo_model.models.postprocess import postprocess
from neo_model.models.rtdetr import RTDETR
from neo_model.models.weights import load_weights

__all__ = ["HGNetV2", "RTDETR", "ResNetVD", "TimmBackbone", "TorchvisionResNet", "load_weights", "postprocess"]

if taken := sorted(CLASSES.keys() & set(__all__)):
    raise ImportError(f"neo_model/models/own: {taken[0]} is the name of a class of neo_model's; choose another name")
globals().update(CLASSES)
__all__ += sorted(CLASSES)
