"""Weights that a backbone starts from."""

import urllib.request
from urllib.error import URLError

import pytest
import torch

import neo_model
from neo_model.models import HGNetV2, ResNetVD, TorchvisionResNet
from neo_model.models.backbones import pretrained
from neo_model.utils import UserError


@pytest.fixture
def source():
    """A backbone whose statistics differ from a fresh one's."""
    backbone = ResNetVD(depth=18, width=8)
    for name, buffer in backbone.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2.0)
    return backbone


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("with_counters", [False, True])
def test_a_file_starts_the_backbone_frozen_or_not(source, tmp_path, frozen, with_counters):
    state = {k: v for k, v in source.state_dict().items() if with_counters or not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "backbone.pth")
    weights = str(tmp_path / "backbone.pth")
    backbone = ResNetVD(depth=18, width=8, weights=weights, freeze_stem=frozen, freeze_norm=frozen)
    images = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(backbone.eval()(images), source.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: ResNetVD(depth=18, width=8, weights="imagenet"), "ResNet18_vd_pretrained"),
        (lambda: ResNetVD(depth=50, width=8, weights="imagenet"), "ResNet50_vd_ssld_v2_pretrained"),
        (lambda: ResNetVD(depth=101, width=8, weights="imagenet"), "ResNet101_vd_ssld_pretrained"),
        (lambda: HGNetV2(size="X", weights="imagenet"), "PPHGNetV2_X_ssld_pretrained"),
    ],
)
def test_imagenet_fetches_the_published_file_of_the_size(monkeypatch, tmp_path, build, name):
    asked = []

    def fetch(url, **options):
        asked.append(url)
        torch.save({}, tmp_path / "empty.pth")
        return tmp_path / "empty.pth"

    monkeypatch.setattr(pretrained, "fetched", fetch)
    with pytest.raises(UserError, match="belongs to another backbone"), torch.device("meta"):
        build()
    assert len(asked) == 1 and asked[0].endswith(f"/{name}_from_paddle.pth")


@pytest.mark.parametrize("error", [URLError("no route to host"), OSError("no route to host")])
@pytest.mark.parametrize("build", [lambda: ResNetVD(depth=18, weights="imagenet"),
                                   lambda: TorchvisionResNet(name="resnet18", weights="imagenet")])  # fmt: skip
def test_unreachable_weights_are_one_line_that_says_what_to_do(monkeypatch, tmp_path, build, error):
    def fail(request, **options):
        raise error

    monkeypatch.setenv("NEO_MODEL_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", fail)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message and "no route to host" in message and "https://" in message
    assert f"put it at {tmp_path}" in message and "or give it by model.backbone.weights=FILE" in message
    assert "model.backbone.weights=null" in message


def test_files_of_other_backbones_are_refused(source, tmp_path):
    torch.save(source.state_dict(), tmp_path / "backbone.pth")
    for depth, width, cause in ((18, 16, "other shapes"), (34, 8, "another backbone"), (10, 8, "another backbone")):
        with pytest.raises(UserError, match=cause):
            ResNetVD(depth=depth, width=width, weights=str(tmp_path / "backbone.pth"))


def test_a_depth_without_published_weights_says_so():
    with pytest.raises(UserError, match="not published for this depth"):
        ResNetVD(depth=10, weights="imagenet")


def test_a_model_built_by_name_fetches_nothing(monkeypatch):
    monkeypatch.delattr(pretrained, "fetched")
    assert neo_model.build_model("rtdetr_r50", num_classes=3).num_classes == 3
