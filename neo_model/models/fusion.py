"""The same model for inference alone: norms folded into convolutions, parallel branches merged, weights at hand."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from neo_model.models.backbones.hgnetv2 import PaddedConv
from neo_model.models.backbones.timm_backbone import TimmBackbone
from neo_model.models.encoder import RepVGGBlock
from neo_model.models.layers import ConvNorm, FrozenBatchNorm2d


def fused(model: nn.Module, *, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of ``model`` in evaluation mode that computes the same, to rounding, with fewer operations.

    Batch norms are folded into their convolutions, and the two branches of a `RepVGGBlock` into one 3x3 convolution.
    The copy cannot be trained, and its state dict is another one.

    Args:
        model: an `RTDETR`; it is left as it is.
        dtype: of the weights of convolutions and linear layers, for use under autocast to this type, which then casts
            none of them; None leaves them as they are.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    _fuse_children(model)
    if dtype is not None:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
                module.to(dtype)
    return model


def _fuse_children(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, TimmBackbone):
            continue  # its norms may hold an activation, and its names say little of the order
        if isinstance(child, RepVGGBlock):
            setattr(module, name, _one_convolution(child))
        elif isinstance(child, ConvNorm):
            _fold(child)
        else:
            _fuse_children(child)
    # HGNetV2's names, then torchvision's; its shortcuts are sequences of the two.
    for conv, norm in [("conv", "bn"), *((f"conv{i}", f"bn{i}") for i in (1, 2, 3)), ("0", "1")]:
        conv_module, norm_module = (module._modules.get(key) for key in (conv, norm))
        holder, last = (conv_module, "1") if isinstance(conv_module, PaddedConv) else (module, conv)
        convolution = holder._modules.get(last)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm_module, nn.BatchNorm2d | FrozenBatchNorm2d):
            holder._modules[last] = fuse_conv_bn_eval(convolution, as_batch_norm(norm_module))
            module._modules[norm] = nn.Identity()


def _fold(layer: ConvNorm) -> None:
    layer.conv = fuse_conv_bn_eval(layer.conv, as_batch_norm(layer.norm))
    layer.norm = nn.Identity()


def _one_convolution(block: RepVGGBlock) -> nn.Module:
    """A 1x1 kernel is a 3x3 kernel with zeros around it; kernels on the same input add up."""
    _fold(block.conv1), _fold(block.conv2)
    conv, small = block.conv1.conv, block.conv2.conv
    conv.weight[:, :, 1:2, 1:2] += small.weight
    conv.bias += small.bias
    return nn.Sequential(conv, nn.SiLU(inplace=True))


def as_batch_norm(norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> nn.BatchNorm2d:
    """A frozen norm as torch's, which its fusion reads."""
    if isinstance(norm, nn.BatchNorm2d):
        return norm
    twin = nn.BatchNorm2d(len(norm.weight), eps=norm.eps).eval()
    twin.weight, twin.bias = (nn.Parameter(x, requires_grad=False) for x in (norm.weight, norm.bias))
    twin.running_mean, twin.running_var = norm.running_mean, norm.running_var
    return twin
