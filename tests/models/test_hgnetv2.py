"""PP-HGNetV2: the published names, the same maps as timm's, frozen or not, and recomputed."""

import copy
import re

import pytest
import torch

from neo_model.models import HGNetV2
from neo_model.models.layers import FrozenBatchNorm2d
from tests.models.test_fusion import with_statistics

# Of size L: a name of every kind in the published file, and its shape.
PUBLISHED = {
    "stem.stem1.conv.weight": (32, 3, 3, 3),
    "stem.stem2a.conv.1.weight": (16, 32, 2, 2),
    "stem.stem2b.conv.1.weight": (32, 16, 2, 2),
    "stem.stem3.conv.weight": (32, 64, 3, 3),
    "stem.stem4.bn.running_var": (48,),
    "stages.0.blocks.0.layers.0.conv.weight": (48, 48, 3, 3),
    "stages.0.blocks.0.aggregation_squeeze_conv.conv.weight": (64, 336, 1, 1),
    "stages.0.blocks.0.aggregation_excitation_conv.conv.weight": (128, 64, 1, 1),
    "stages.1.downsample.conv.weight": (128, 1, 3, 3),
    "stages.1.downsample.bn.weight": (128,),
    "stages.2.blocks.0.layers.0.conv1.conv.weight": (192, 512, 1, 1),
    "stages.2.blocks.2.layers.5.conv2.conv.weight": (192, 1, 5, 5),
    "stages.3.blocks.0.layers.5.conv2.bn.bias": (384,),
    "stages.3.blocks.0.aggregation_excitation_conv.bn.running_mean": (2048,),
}


def test_names_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        state = HGNetV2(size="L", freeze_norm=True).state_dict()
    assert {name: tuple(state[name].shape) for name in PUBLISHED} == PUBLISHED
    assert len(state) == 5 * 80, "a kernel and four tensors of a norm for each of 80 convolutions"


def assert_close_to_scale(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def test_frozen_norms_do_what_live_ones_do_in_evaluation():
    live, frozen = with_statistics(HGNetV2(size="L")), HGNetV2(size="L", freeze_norm=True, freeze_stem=True)
    frozen.load_state_dict({k: v for k, v in live.state_dict().items() if not k.endswith("num_batches_tracked")})
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    images = torch.rand(1, 3, 67, 94)
    with torch.no_grad():
        assert_close_to_scale(frozen(images), live(images))


@pytest.mark.slow
def test_recomputed_blocks_have_the_same_gradients():
    plain = HGNetV2(size="L", freeze_stem=True, freeze_norm=True)
    again = copy.deepcopy(plain)
    for block in again.blocks:
        block.recomputed = True
    images = torch.rand(1, 3, 64, 96)
    for backbone in (plain, again):
        sum(x.square().mean() for x in backbone(images)).backward()
    for (name, p), q in zip(plain.named_parameters(), again.parameters(), strict=True):
        if not name.startswith("stem."):
            torch.testing.assert_close(q.grad, p.grad, atol=0, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "theirs"), [("L", "hgnetv2_b4"), ("X", "hgnetv2_b5")])
def test_maps_are_those_of_timm(size, theirs):
    timm = pytest.importorskip("timm")
    ours = with_statistics(HGNetV2(size=size))
    other = timm.create_model(theirs, features_only=True).eval()
    other.load_state_dict({timm_name(name): value for name, value in ours.state_dict().items()})
    images = torch.rand(1, 3, 135, 241)
    with torch.no_grad():
        assert_close_to_scale(ours(images), other(images)[1:])


def timm_name(name: str) -> str:
    name = re.sub(r"^stages\.", "stages_", name).replace(".conv.1.", ".conv.")
    name = name.replace("aggregation_squeeze_conv", "aggregation.0")
    return name.replace("aggregation_excitation_conv", "aggregation.1")
