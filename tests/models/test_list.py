"""The list of models: figures counted on shapes, AP and weights as published."""

import pytest
import torch
from torch import nn

from neo_model.config.compose import choices
from neo_model.models.layers import ConvNorm
from neo_model.models.list import entry_of, inference_flops, main, published_ap

# COCO AP in percent as the authors published it.
PUBLISHED_AP = {
    "rtdetr_r18": 46.5, "rtdetr_r34": 48.9, "rtdetr_r50_m": 51.3, "rtdetr_r50": 53.1, "rtdetr_r101": 54.3,
    "rtdetr_hgnetv2_l": 53.0, "rtdetr_hgnetv2_x": 54.8,
    "rtdetrv2_r18": 48.1, "rtdetrv2_r34": 49.9, "rtdetrv2_r50_m": 51.9, "rtdetrv2_r50": 53.4, "rtdetrv2_r101": 54.3,
    "rtdetrv2_r18_dsp": 47.4, "rtdetrv2_r34_dsp": 49.2, "rtdetrv2_r50_m_dsp": 51.4, "rtdetrv2_r50_dsp": 52.9,
    "rtdetrv2_hgnetv2_l": 52.9, "rtdetrv2_hgnetv2_x": 54.7, "rtdetrv2_hgnetv2_h": 56.3,
    "tiny": None,
}  # fmt: skip


@pytest.mark.parametrize("size_hw", [(640, 640), (1080, 1920), (65, 91)])
def test_arithmetic_is_that_of_the_merged_form(size_hw):
    with torch.device("meta"):
        model = nn.Sequential(ConvNorm(3, 8, kernel_size=3, stride=2), nn.Conv2d(8, 4, 1, groups=2))
    height, width = (-(-side // 2) for side in size_hw)
    products = (3 * 9 * 8 + 4 * 4) * height * width
    assert inference_flops(model, size_hw) == 2 * products


def test_every_model_has_the_ap_that_was_published():
    assert {name: published_ap(name) for name in choices("model")} == PUBLISHED_AP


def test_the_command_lists_what_it_is_asked_for(capsys):
    assert main(["tiny"]) == 0
    *_, header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "M", "par.", "640x640", "1920x1080", "AP", "weights"]
    name, parameters, small, large, ap, weights = line.split()
    assert (name, parameters, ap, weights) == ("tiny", "0.8", "-", "-")
    pixels = 1920 * 1080 / 640**2
    assert float(large) / float(small) == pytest.approx(pixels, rel=0.1)


@pytest.mark.slow
def test_published_weights_are_named_with_their_licence():
    entry = entry_of("rtdetr_r18")
    assert entry.weights == ["rtdetr_r18_coco", "rtdetr_r18_coco_objects365"]
    assert str(entry).endswith("46.5  rtdetr_r18_coco, rtdetr_r18_coco_objects365 (Apache-2.0)")
    assert 50e9 < entry.flops[0] < 60e9, "published: 60, with values of all tokens and boxes of all of them"


def test_an_unknown_name_is_one_line(capsys):
    assert main(["rtdetr_5"]) == 2
    assert "did you mean rtdetr_r50" in capsys.readouterr().err
