"""Which parameters learn at which rate and decay."""

import pytest
import torch
from torch import nn

from neo_model.models import HGNetV2, ResNetVD, TorchvisionResNet
from neo_model.optim import AdamW, parameter_groups
from neo_model.utils import UserError

SETTINGS = {"lr": 1e-3, "backbone_lr": 1e-4, "weight_decay": 0.05}


def setting_of(groups: list[dict], parameter: nn.Parameter) -> tuple[float, float]:
    (group,) = [group for group in groups if any(p is parameter for p in group["params"])]
    return group["lr"], group["weight_decay"]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("backbone", ["vd", "torchvision"])
def test_groups_hold_each_trainable_parameter_once(make_model, backbone, frozen):
    freeze = {"freeze_stem": frozen, "freeze_norm": frozen}
    model = make_model(**({"backbone": TorchvisionResNet(name="resnet18", **freeze)} if backbone != "vd" else freeze))
    groups = parameter_groups(model, **SETTINGS)
    grouped = [id(p) for group in groups for p in group["params"]]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert len(grouped) == len(trainable) and set(grouped) == trainable
    assert len(trainable) < len(list(model.parameters())) or not frozen


@pytest.mark.parametrize("backbone", ["vd", "torchvision"])
def test_norms_and_biases_do_not_decay_and_the_backbone_has_its_own_rate(make_model, backbone):
    model = make_model(backbone=TorchvisionResNet(name="resnet18") if backbone == "torchvision" else None)
    groups = parameter_groups(model, **SETTINGS)
    norms = (nn.BatchNorm2d, nn.LayerNorm)
    of_norms = {id(p) for module in model.modules() if isinstance(module, norms) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        lr, weight_decay = setting_of(groups, parameter)
        assert lr == (1e-4 if name.startswith("backbone.") else 1e-3), name
        assert weight_decay == (0.0 if id(parameter) in of_norms or "bias" in name else 0.05), name
    assert of_norms and len(groups) == 4


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: ResNetVD(depth=10, width=8), ["conv1", *(f"res_layers.{i}" for i in range(4))]),
        (lambda: TorchvisionResNet(name="resnet18"), ["body.conv1", *(f"body.layer{i}" for i in (1, 2, 3, 4))]),
        (lambda: HGNetV2(size="L"), ["stem", *(f"stages.{i}" for i in range(4))]),
    ],
)
def test_layers_nearer_to_the_images_learn_more_slowly(make_model, build, parts):
    with torch.device("meta"):
        model = make_model(backbone=build())
    groups = parameter_groups(model, **SETTINGS, layer_decay=0.5)
    rates = {f"backbone.{part}.": 1e-4 * 0.5 ** (4 - i) for i, part in enumerate(parts)}
    for name, parameter in model.named_parameters():
        wanted = [rate for part, rate in rates.items() if name.replace("body.bn1.", "body.conv1.").startswith(part)]
        assert setting_of(groups, parameter)[0] == (wanted[0] if wanted else 1e-3), name


def test_a_backbone_without_layers_cannot_decay_their_rates(make_model):
    backbone = nn.Conv2d(3, 8, 3)
    model = make_model()
    model.backbone = backbone
    with pytest.raises(UserError, match="optim.backbone_layer_decay=0.5: Conv2d does not tell its layers apart"):
        AdamW(lr=1e-3, backbone_layer_decay=0.5).build(model)
    assert AdamW(lr=1e-3).build(model)


def test_attention_weights_and_biases_are_told_apart(make_model):
    """`nn.MultiheadAttention` holds ``in_proj_weight`` and ``in_proj_bias`` itself, not in a layer of its own."""
    model = make_model()
    groups = parameter_groups(model, **SETTINGS)
    attention = model.decoder.decoder["layers"][0].self_attn
    assert setting_of(groups, attention.in_proj_weight) == (1e-3, 0.05)
    assert setting_of(groups, attention.in_proj_bias) == (1e-3, 0.0)
    assert setting_of(groups, model.decoder.denoising_class_embed.weight) == (1e-3, 0.05)


def test_equal_settings_share_a_group(make_model):
    groups = parameter_groups(make_model(), lr=1e-3, backbone_lr=1e-3, weight_decay=0.0)
    assert len(groups) == 1


def test_a_shared_parameter_is_stepped_once(make_model):
    model = make_model()
    model.decoder.dec_score_head[1].weight = model.decoder.dec_score_head[0].weight
    groups = parameter_groups(model, **SETTINGS)
    assert setting_of(groups, model.decoder.dec_score_head[0].weight) == (1e-3, 0.05)


def test_the_backbones_rate_follows_a_sweep_over_the_rate(make_model):
    optimizer = AdamW(lr=2e-4, backbone_lr_ratio=0.1, betas=[0.8, 0.9], weight_decay=0.01).build(make_model())
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([2e-5, 2e-4])
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)
    # The report of the training loop reads the last group's rate as the rate of everything but the backbone.
    assert optimizer.param_groups[-1]["lr"] == 2e-4


def test_a_step_decays_weights_only(make_model):
    """Without gradients to follow, AdamW shrinks a decayed weight by lr * weight_decay and leaves the rest."""
    model = make_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = AdamW(lr=0.5, backbone_lr_ratio=0.5, weight_decay=0.1).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    for name, factor in (
        ("encoder.lateral_convs.0.conv.weight", 1 - 0.5 * 0.1),
        ("backbone.res_layers.0.blocks.0.branch2a.conv.weight", 1 - 0.25 * 0.1),
        ("encoder.lateral_convs.0.norm.weight", 1),
        ("decoder.enc_score_head.bias", 1),
    ):
        torch.testing.assert_close(after[name], before[name] * factor)
