"""torchvision's backbones: where their weights come from and what happens without."""


import pytest
import torch
from torchvision.models import get_model

from neo_model.models import TorchvisionResNet
from neo_model.models.layers import FrozenBatchNorm2d
from neo_model.models.backbones import pretrained
from neo_model.utils import UserError


@pytest.fixture
def resnet18():
    """A torchvision model with statistics that are not the fresh ones."""
    torch.manual_seed(0)
    model = get_model("resnet18", weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def weights(resnet18, tmp_path) -> str:
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    return str(tmp_path / "resnet18.pth")


@pytest.mark.parametrize("frozen", [False, True])
def test_local_weights_give_torchvisions_own_features_frozen_or_not(resnet18, weights, frozen):
    backbone = TorchvisionResNet(name="resnet18", weights=weights, freeze_norm=frozen, freeze_stem=frozen).eval()
    x = torch.rand(1, 3, 64, 96)
    expected = resnet18.maxpool(resnet18.relu(resnet18.bn1(resnet18.conv1(x))))
    maps = []
    for stage in (resnet18.layer1, resnet18.layer2, resnet18.layer3, resnet18.layer4):
        expected = stage(expected)
        maps.append(expected)
    torch.testing.assert_close(backbone(x), maps[1:], atol=1e-4, rtol=1e-4)
    assert any(isinstance(module, FrozenBatchNorm2d) for module in backbone.modules()) == frozen


def test_imagenet_weights_are_those_of_torchvision(resnet18, monkeypatch, tmp_path):
    asked = []

    def fetch(url, **options):
        asked.append(url)
        torch.save(resnet18.state_dict(), tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    monkeypatch.setattr(pretrained, "fetched", fetch)
    backbone = TorchvisionResNet(name="resnet18", weights="imagenet")
    assert asked[0].startswith("https://download.pytorch.org/models/resnet18")
    torch.testing.assert_close(backbone.body["conv1"].weight, resnet18.conv1.weight)


def test_files_that_do_not_fit_or_are_none(weights, tmp_path):
    with pytest.raises(UserError, match="of other shapes|belongs to another backbone"):
        TorchvisionResNet(name="resnet50", weights=weights)
    (tmp_path / "text.pth").write_text("no weights")
    for name, cause in (("text.pth", "not a plain weight file"), ("missing.pth", "no such file")):
        with pytest.raises(UserError, match=f"{name}: .*{cause}"):
            TorchvisionResNet(name="resnet18", weights=str(tmp_path / name))
