"""Every model of the configuration builds, has the published size and runs."""

import functools
import re

import pytest
import torch

import neo_model
from neo_model.config.compose import choices
from neo_model.models import hub
from neo_model.utils import UserError

# Millions of parameters with 80 classes, in training. Published are 42, 36, 76, 32 and 123 for R50, R50-m, R101,
# HGNetv2-L and H, some of them counted with merged branches; the tiny one is ours.
MILLIONS = {
    "tiny": 1, "r18": 20, "r34": 31, "r50": 43, "r50_m": 37, "r101": 77, "hgnetv2_l": 33, "hgnetv2_x": 67,
    "hgnetv2_h": 126,
}  # fmt: skip
FAST = ["tiny", "rtdetr_r18", "rtdetr_r50_m", "rtdetrv2_r18_dsp"]
SLOW = ["rtdetr_r34", "rtdetr_r50", "rtdetr_r101", "rtdetrv2_r50", "rtdetrv2_hgnetv2_l", "rtdetrv2_hgnetv2_h"]


@pytest.mark.parametrize("name", choices("model"))
def test_each_model_has_its_published_size(name):
    with torch.device("meta"):
        model = neo_model.build_model(name, num_classes=80)
    variant = name.removeprefix("rtdetr_").removeprefix("rtdetrv2_").removesuffix("_dsp")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == MILLIONS[variant]
    assert (model.version, model.decoder.decoder["layers"][0].cross_attn.sampling) == (
        1 + name.startswith("rtdetrv2"), "discrete" if name.endswith("_dsp") else "bilinear"
    )


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_models_of_every_kind_and_size_run(name):
    model = neo_model.build_model(name, num_classes=80).eval()
    with torch.inference_mode():
        outputs = model(torch.zeros(1, 3, 72, 128, dtype=torch.uint8))
    assert outputs["pred_logits"].shape[2] == 80
    assert outputs["pred_boxes"].isfinite().all()


def test_published_freezing():
    names = ("rtdetr_r18", "rtdetr_r50", "rtdetrv2_hgnetv2_l")
    with torch.device("meta"):
        small, large, other = (neo_model.build_model(name, num_classes=2).backbone for name in names)
    assert all(p.requires_grad for p in small.parameters())
    for backbone, stem, stages in ((large, large.conv1, large.res_layers), (other, other.stem, other.stages)):
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules())
        assert not any(p.requires_grad for p in stem.parameters())
        assert all(p.requires_grad for p in stages.parameters())


@pytest.mark.parametrize(("version", "bound"), [(1, 1 / 32**0.5), (2, (6 / (32 + 32)) ** 0.5)])
def test_the_decoders_projections_start_within_the_published_bounds(make_model, version, bound):
    """torch's own for version 1, Glorot and Bengio's for version 2; 32 channels in and out."""
    for projection in make_model(version=version).decoder.input_proj:
        assert 0.95 * bound < projection.conv.weight.abs().max() <= bound


@pytest.mark.parametrize("name", ["rtdetr_r50_m", "rtdetrv2_r50_m", "rtdetrv2_r50_m_dsp"])
def test_r50_m_trains_six_layers_and_predicts_with_the_third(name):
    with torch.device("meta"):
        decoder = neo_model.build_model(name, num_classes=2).decoder
    assert (len(decoder.dec_score_head), decoder.eval_layer) == (6, 2)


def test_every_published_file_has_a_model_of_its_name():
    """``weights=hub:NAME_coco`` goes with ``model=NAME``, whatever else the weights were trained on."""
    assert {re.sub("_coco.*", "", name) for name in hub.PUBLISHED} <= set(choices("model"))


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="rtdetr_r50"):
        neo_model.build_model("rtdetr_r5", num_classes=2)


def test_the_criterion_of_the_configuration_is_for_the_given_classes():
    criterion = neo_model.build_criterion(num_classes=7)
    assert (criterion.num_classes, criterion.bbox_weight, criterion.matcher.class_cost) == (7, 5.0, 2.0)


@pytest.mark.parametrize("build", [functools.partial(neo_model.build_model, "tiny"), neo_model.build_criterion])
@pytest.mark.parametrize("num_classes", [0, -1, 2.5, "3", True])
def test_what_is_no_number_of_classes_is_refused(build, num_classes):
    with pytest.raises(UserError) as error:
        build(num_classes=num_classes)
    assert str(error.value).startswith(f"num_classes: {num_classes!r} is not a whole number")
    assert "\n" not in str(error.value)
