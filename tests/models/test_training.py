"""What a training forward and backward pass does: gradients everywhere, frozen parts frozen, no surprises."""

import copy
import functools

import pytest
import torch

from neo_model.losses import Criterion, HungarianMatcher
from neo_model.models import ResNetVD, TorchvisionResNet
from neo_model.models.layers import FrozenBatchNorm2d
from tests.models.plain import select_after_the_heads


def total_loss(model, images, targets, num_classes=3) -> torch.Tensor:
    outputs = model(images, targets)
    return sum(Criterion(num_classes=num_classes, matcher=HungarianMatcher())(outputs, targets).values())


def assert_every_parameter_learns(model, *, may_be_zero: bool = False) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"
            assert may_be_zero or parameter.grad.any(), f"{name} has no gradient but zero"


def warm(model) -> None:
    """Box heads start at zero, which stops the gradient of the layers before: past the first step they are not."""
    for head in (model.decoder.enc_bbox_head, *model.decoder.dec_bbox_head):
        torch.nn.init.normal_(head.layers[-1].weight, std=0.1)


# A CPU takes 17 s to go back through torchvision's ResNet in float16.
@pytest.mark.parametrize(
    ("backbone", "dtype"),
    [
        ("vd", torch.bfloat16),
        ("vd", torch.float16),
        ("vd", None),
        ("torchvision", torch.bfloat16),
        ("torchvision", None),
    ],
)
def test_every_trainable_parameter_has_a_finite_gradient(make_model, make_targets, backbone, dtype):
    model = make_model(backbone=TorchvisionResNet(name="resnet18") if backbone == "torchvision" else None).train()
    warm(model)
    images, targets = torch.rand(2, 3, 96, 160), make_targets(3, 1)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        outputs = model(images, targets)
    assert outputs["pred_boxes"].dtype == torch.float32
    losses = Criterion(num_classes=3, matcher=HungarianMatcher())(outputs, targets)
    loss = sum(losses.values())
    assert loss.isfinite()
    loss.backward()
    assert_every_parameter_learns(model)


def test_heads_on_the_selected_tokens_have_the_loss_and_gradients_of_heads_on_all(make_model, make_targets):
    model = make_model(num_denoising=0).double().train()
    warm(model)
    images = torch.rand(2, 3, 96, 160, dtype=torch.float64)
    targets = [target | {"boxes": target["boxes"].double()} for target in make_targets(3, 1)]
    plain = copy.deepcopy(model)
    plain.decoder._select = functools.partial(select_after_the_heads, plain.decoder)
    losses = [total_loss(m, images, targets) for m in (model, plain)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    for loss in losses:
        loss.backward()
    assert_every_parameter_learns(model)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-10)


def test_a_frozen_stem_keeps_nothing_for_the_backward_pass():
    for frozen in (True, False):
        kept = []
        stem = ResNetVD(depth=10, width=8, freeze_stem=frozen, freeze_norm=True).conv1
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x):
            assert stem(torch.rand(1, 3, 32, 32)).requires_grad != frozen
        assert bool(kept) != frozen


def test_version_2_learns_with_its_own_points_and_names_the_encoders_losses(make_model, make_targets):
    for options in ({"num_points": [3, 1, 2]}, {"sampling": "discrete"}):
        model = make_model(version=2, **options).train()
        warm(model)
        images, targets = torch.rand(2, 3, 96, 160), make_targets(3, 1)
        losses = Criterion(num_classes=3, matcher=HungarianMatcher())(model(images, targets), targets)
        suffixes = ("", "_aux_0", "_enc_0", "_dn_0", "_dn_1")
        assert set(losses) == {f"loss_{name}{suffix}" for name in ("vfl", "bbox", "giou") for suffix in suffixes}
        sum(losses.values()).backward()
        assert_every_parameter_learns(model)
        offsets = model.decoder.decoder["layers"][0].cross_attn.sampling_offsets
        assert offsets.weight.requires_grad == ("sampling" not in options), "which pixel is read has no gradient"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sampling": "discrete"}, "need version=2"),
        ({"num_points": [4, 4, 4]}, "need version=2"),
        ({"version": 2, "num_points": [4, 4]}, "must have 3 numbers, one for each map"),
    ],
)
def test_points_that_the_version_cannot_have_are_refused(make_model, options, reason):
    with pytest.raises(ValueError, match=reason):
        make_model(**options)


def test_mixed_precision_gradients_are_those_of_float32(make_model, make_targets):
    images, targets = torch.rand(2, 3, 96, 160), make_targets(3, 1)
    gradients = []
    for dtype in (None, torch.bfloat16):
        model = make_model(num_denoising=0).train()
        warm(model)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
            outputs = model(images, targets)
        sum(Criterion(num_classes=3, matcher=HungarianMatcher())(outputs, targets).values()).backward()
        gradients.append(model.decoder.enc_score_head.weight.grad.flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


@pytest.mark.parametrize("num_denoising", [0, 10])
def test_an_image_without_boxes_beside_one_with_boxes(make_model, make_targets, num_denoising):
    model = make_model(num_denoising=num_denoising).train()
    loss = total_loss(model, torch.rand(2, 3, 64, 96), make_targets(0, 4))
    loss.backward()
    assert loss.isfinite()
    assert_every_parameter_learns(model, may_be_zero=True)


def test_what_denoising_sees_does_not_reach_the_matching_queries(make_model, make_targets):
    model = make_model().train()
    images = torch.rand(2, 3, 64, 96)
    without = model(images, None)
    for targets in (make_targets(3, 1), make_targets(2, 6, seed=1)):
        outputs = model(images, targets)
        torch.testing.assert_close(outputs["pred_logits"], without["pred_logits"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(outputs["pred_boxes"], without["pred_boxes"], atol=1e-5, rtol=1e-4)
    assert "dn_aux_outputs" not in without


def test_denoising_can_be_turned_off_and_its_embedding_with_it(make_model, make_targets):
    model = make_model(num_denoising=0).train()
    assert "dn_aux_outputs" not in model(torch.rand(1, 3, 64, 96), make_targets(2))
    assert not any("denoising" in name for name, _ in model.named_parameters())


def test_evaluation_stops_at_its_layer(make_model):
    long, short = make_model(num_decoder_layers=3, eval_decoder_layer=1), make_model(num_decoder_layers=2)
    warm(long)
    left_over = short.load_state_dict(long.state_dict(), strict=False)
    assert not left_over.missing_keys and all(".2." in key for key in left_over.unexpected_keys)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        outputs = long.eval()(images)
        torch.testing.assert_close(outputs, short.eval()(images))
    assert len(long.train()(images)["aux_outputs"]) == 3  # two layers and the encoder's selection


def test_an_evaluation_layer_that_is_not_there_is_refused(make_model):
    with pytest.raises(ValueError, match="eval_decoder_layer=2"):
        make_model(num_decoder_layers=2, eval_decoder_layer=2)


def test_the_same_seed_gives_the_same_outputs_and_gradients(make_model, make_targets):
    images, results = torch.rand(2, 3, 64, 96), []
    for _ in range(2):
        model = make_model().train()
        loss = total_loss(model, images, make_targets(3, 1))
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*results, atol=0, rtol=0)


def train_a_step(model, targets) -> dict[str, torch.Tensor]:
    """Take a step; returns the state before it."""
    before = copy.deepcopy(model.state_dict())
    model.train()
    total_loss(model, torch.rand(2, 3, 64, 96), targets).backward()
    torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1, weight_decay=0.1).step()
    return before


FROZEN_BACKBONES = {
    "vd": lambda **frozen: ResNetVD(depth=10, width=8, **frozen),
    "torchvision": lambda **frozen: TorchvisionResNet(name="resnet18", **frozen),
}
STEMS = {"vd": ("backbone.conv1.",), "torchvision": ("backbone.body.conv1.", "backbone.body.bn1.")}


@pytest.mark.parametrize("kind", FROZEN_BACKBONES)
def test_frozen_stem_and_norms_stay_as_they_are_in_training(make_model, make_targets, kind):
    backbone = FROZEN_BACKBONES[kind](freeze_stem=True, freeze_norm=True)
    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert norms and not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())
    for norm in norms:
        norm.running_mean.normal_()
    model = make_model(backbone=backbone)
    before = train_a_step(model, make_targets(2, 1))
    norm_names = [name for name, module in model.named_modules() if isinstance(module, FrozenBatchNorm2d)]
    frozen = (*STEMS[kind], *(f"{name}." for name in norm_names))
    changed = [name for name, value in model.state_dict().items() if not value.equal(before[name])]
    assert not [name for name in changed if name.startswith(frozen)]
    rest = [name for name, _ in model.named_parameters() if name.startswith("backbone") and not name.startswith(frozen)]
    assert rest and set(rest) <= set(changed)


@pytest.mark.parametrize("kind", FROZEN_BACKBONES)
def test_without_freezing_stem_and_norms_learn(make_model, make_targets, kind):
    model = make_model(backbone=FROZEN_BACKBONES[kind]())
    before = train_a_step(model, make_targets(2, 1))
    names = [name for name in before if name.startswith("backbone")]
    unchanged = [name for name in names if model.state_dict()[name].equal(before[name])]
    assert any("running_mean" in name for name in names) and not unchanged


def test_a_frozen_norm_computes_what_batch_norm_does_in_evaluation():
    norm, frozen = torch.nn.BatchNorm2d(5).eval(), FrozenBatchNorm2d(5)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(tensor)
    norm.running_var.uniform_(0.5, 2)
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})
    x = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(frozen.train()(x), norm(x))
    assert frozen(x.bfloat16()).dtype == torch.bfloat16


def test_a_frozen_norm_rounds_its_product_and_sum_as_published():
    torch.manual_seed(0)
    frozen = FrozenBatchNorm2d(5)
    for tensor in (frozen.weight, frozen.bias, frozen.running_mean):
        torch.nn.init.normal_(tensor)
    scale = frozen.weight * (frozen.running_var + frozen.eps).rsqrt()
    shift = frozen.bias - frozen.running_mean * scale
    x = torch.randn(2, 5, 16, 16)
    assert torch.equal(frozen(x), x * scale[:, None, None] + shift[:, None, None])


@pytest.mark.parametrize("version", [1, 2])
def test_only_version_1_lets_gradients_through_references_in_evaluation(make_model, version):
    model = make_model(version=version).eval()
    model(torch.rand(1, 3, 64, 96))["pred_boxes"].sum().backward()
    first, *_, last = (head.layers[-1].bias.grad for head in model.decoder.dec_bbox_head)
    assert last.abs().sum() > 0
    assert first.abs().sum() > 0 if version == 1 else first is None
