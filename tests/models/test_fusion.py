"""The inference form computes the same with fewer operations, and leaves the model as it is."""

import copy

import pytest
import torch
from torch import nn

from neo_model.models import HGNetV2, TorchvisionResNet
from neo_model.models.encoder import RepVGGBlock
from neo_model.models.fusion import fused
from neo_model.models.layers import FrozenBatchNorm2d


def with_statistics(model):
    """Norms that do something: away from mean 0, variance 1, scale 1 and shift 0."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.2)
    return model.eval()


BACKBONES = {
    "vd": lambda: None,
    "torchvision": lambda: TorchvisionResNet(name="resnet18"),
    "torchvision frozen": lambda: TorchvisionResNet(name="resnet18", freeze_norm=True),
    "hgnetv2": lambda: HGNetV2(size="L"),
}


@pytest.mark.parametrize("backbone", [*list(BACKBONES)[:-1], pytest.param("hgnetv2", marks=pytest.mark.slow)])
def test_outputs_are_the_same(make_model, backbone):
    model = with_statistics(make_model(backbone=BACKBONES[backbone]()))
    for parameter in model.double().parameters():
        if not parameter.any():  # or the boxes would be the anchors, whatever the maps are
            nn.init.normal_(parameter, std=0.2)
    before, images = copy.deepcopy(model.state_dict()), torch.rand(2, 3, 96, 160, dtype=torch.float64)
    copied = fused(model)
    with torch.no_grad():
        torch.testing.assert_close(copied(images), model(images), rtol=1e-10, atol=1e-10)
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d | RepVGGBlock) for m in copied.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("backbone", ["vd", "torchvision"])
def test_in_single_precision_its_maps_are_the_same_to_rounding(make_model, backbone):
    model = with_statistics(make_model(backbone=BACKBONES[backbone]()))
    copied, images = fused(model), torch.rand(2, 3, 96, 160)
    with torch.no_grad():
        maps, expected = (m.encoder(m.backbone(images)) for m in (copied, model))
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def test_merged_branches_are_gone(make_model):
    model = make_model()
    blocks = [(name, m) for name, m in model.named_modules() if isinstance(m, RepVGGBlock)]
    copied = dict(fused(model).named_modules())
    assert blocks
    for name, block in blocks:
        out_channels, in_channels = block.conv1.conv.weight.shape[:2]
        merged = sum(p.numel() for p in copied[name].parameters()) + sum(b.numel() for b in copied[name].buffers())
        assert merged == 9 * in_channels * out_channels + out_channels  # one 3x3 kernel and its bias


def test_weights_of_the_autocast_type_give_what_autocast_gives(make_model):
    model, images = with_statistics(make_model()), torch.rand(1, 3, 96, 160)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        plain, ready = fused(model)(images), fused(model, dtype=torch.bfloat16)(images)
    torch.testing.assert_close(ready, plain, rtol=0, atol=0)
