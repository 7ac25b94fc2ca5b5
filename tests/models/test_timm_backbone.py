"""Any timm model as a backbone: maps, sizes that 32 does not divide, frozen stages, weights, and what is refused."""

import copy
import math
import sys

import pytest
import torch
from torch import nn

from neo_model.config.compose import compose_training
from neo_model.config.validate import validate_training
from neo_model.models import TimmBackbone
from neo_model.utils import UserError
from tests.models.test_training import assert_every_parameter_learns, total_loss, warm

# Convolutions with layer norms, with batch norms, and windows of attention on a fixed image size.
KINDS = ["convnext_atto", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]
SIZE_HW = (135, 241)


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_detector_trains_and_predicts_at_a_size_that_32_does_not_divide(make_model, make_targets, timm, name):
    backbone = TimmBackbone(name=name)
    images = torch.rand(2, 3, *SIZE_HW)
    maps = backbone.eval()(images)
    expected = [tuple(math.ceil(side / stride) for side in SIZE_HW) for stride in (8, 16, 32)]
    assert [tuple(x.shape[2:]) for x in maps] == expected
    assert [x.shape[1] for x in maps] == backbone.out_channels
    model = make_model(backbone=backbone)
    warm(model)
    total_loss(model.train(), images, make_targets(3, 1)).backward()
    assert_every_parameter_learns(model, may_be_zero=True)
    with torch.inference_mode():
        assert model.eval()(images)["pred_boxes"].isfinite().all()
    layers = [id(parameter) for layer in backbone.layers for parameter in layer]
    assert sorted(layers) == sorted(map(id, backbone.parameters())) and len(backbone.layers) > 4


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS[:2])
def test_a_file_of_timms_gives_timms_maps(timm, tmp_path, name):
    theirs = timm.create_model(name).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = TimmBackbone(name=name, weights=str(tmp_path / "weights.pth")).eval()
    images = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, intermediates_only=True)[-3:]
        torch.testing.assert_close(ours(images), expected)
    assert ours.pixel_mean == theirs.pretrained_cfg["mean"] and ours.pixel_std == theirs.pretrained_cfg["std"]
    with pytest.raises(UserError, match="belongs to another backbone|other shapes"):
        TimmBackbone(name="resnet18", weights=str(tmp_path / "weights.pth"))


@pytest.mark.slow
def test_frozen_stages_keep_their_weights_and_their_statistics(timm):
    backbone = TimmBackbone(name="mobilenetv3_small_050", frozen_stages=2).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.rand(2, 3, 64, 96))
    norms = {name: m for name, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    moved = {name for name in norms if not torch.equal(before[f"{name}.running_mean"], norms[name].running_mean)}
    learning = {name for name, m in norms.items() if m.weight.requires_grad}
    assert moved == learning and len(norms) - 4 <= len(learning) < len(norms)
    with pytest.raises(ValueError, match="frozen_stages=99 is more than the"):
        TimmBackbone(name="mobilenetv3_small_050", frozen_stages=99)


@pytest.mark.slow
def test_recomputing_draws_the_same_random_numbers(timm):
    plain = TimmBackbone(name="swin_tiny_patch4_window7_224").train()
    again = copy.deepcopy(plain)
    for block in again.blocks:
        block.recomputed = True
    images = torch.rand(2, 3, 64, 96)
    for backbone in (plain, again):
        torch.manual_seed(0)
        sum(x.square().mean() for x in backbone(images)).backward()
    for p, q in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_tiny_patch16_224", "has maps at strides 16, not 8, 16 and 32"),
        ("convnext_tin", "is no model of timm; did you mean convnext_tiny"),
        ("hf_hub:someone/something", "is no model of timm"),
    ],
)
def test_what_timm_or_a_detector_lacks_is_refused(timm, name, reason):
    with pytest.raises(UserError, match=f"model.backbone.name={name}: {reason}"):
        TimmBackbone(name=name)


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_an_unknown_tag_is_refused_with_the_known_ones(timm, weights):
    reason = "has a tag that timm does not know; use one of convnext_tiny.*, or none"
    with pytest.raises(UserError, match=f"model.backbone.name=convnext_tiny.typo: {reason}"):
        TimmBackbone(name="convnext_tiny.typo", weights=weights)


def test_without_timm_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"needs timm; pip install -e .\.\[timm\]"):
        TimmBackbone(name="convnext_tiny")


def test_the_configuration_takes_any_name_and_needs_one():
    chosen = ["model=rtdetrv2_r18", "model/backbone=timm"]
    given = ["model.backbone.name=convnext_tiny", "optim.backbone_layer_decay=0.8"]
    validate_training(compose_training([*chosen, *given]))
    with pytest.raises(UserError, match="model.backbone.name: is not given"):
        validate_training(compose_training(chosen))
