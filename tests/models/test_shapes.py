"""Any image from 64 pixels: sizes of the maps, order of the positions, values of the pixels."""

import math

import pytest
import torch

from neo_model.models import HGNetV2, ResNetVD, TorchvisionResNet
from neo_model.models.decoder import make_anchors
from neo_model.models.encoder import HybridEncoder, sincos_position

BACKBONES = {
    "vd10": lambda: ResNetVD(depth=10, width=8),
    "vd18": lambda: ResNetVD(depth=18),
    "vd50": lambda: ResNetVD(depth=50),
    "hgnetv2": lambda: HGNetV2(size="L"),
    "torchvision18": lambda: TorchvisionResNet(name="resnet18"),
    "torchvision50": lambda: TorchvisionResNet(name="resnet50"),
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(1080, 1920), (270, 480), (360, 640), (65, 91), (64, 64), (487, 64)])
def test_map_sizes_are_rounded_up(name, size):
    with torch.device("meta"):
        backbone = BACKBONES[name]()
        maps = backbone(torch.empty(1, 3, *size))
    expected = [[math.ceil(side / stride) for side in size] for stride in (8, 16, 32)]
    assert [list(x.shape[2:]) for x in maps] == expected
    assert [x.shape[1] for x in maps] == backbone.out_channels
    if size == (1080, 1920):
        assert expected == [[135, 240], [68, 120], [34, 60]]


@pytest.mark.parametrize("size", [(64, 64), (65, 91), (91, 65), (270, 480), (360, 640), (64, 333)])
def test_any_size_trains_and_predicts(make_model, make_targets, size):
    model, targets = make_model(), make_targets(2, 0)
    images = torch.rand(2, 3, *size)
    outputs = model.train()(images, targets)
    (outputs["pred_logits"].mean() + outputs["pred_boxes"].mean()).backward()
    assert all(p.grad.isfinite().all() for p in model.backbone.parameters())
    with torch.no_grad():
        outputs = model.eval()(images)
    num_tokens = sum(math.ceil(size[0] / s) * math.ceil(size[1] / s) for s in (8, 16, 32))
    num_queries = min(20, num_tokens)
    assert outputs["pred_logits"].shape == (2, num_queries, 3)
    assert outputs["pred_boxes"].shape == (2, num_queries, 4)
    assert ((outputs["pred_boxes"] >= 0) & (outputs["pred_boxes"] <= 1)).all()


def test_full_hd_goes_through_the_whole_model(make_model):
    model = make_model().eval()
    with torch.inference_mode():
        maps = model.encoder(model.backbone(torch.rand(1, 3, 1080, 1920)))
        outputs = model.decoder(maps)
    assert [tuple(x.shape[2:]) for x in maps] == [(135, 240), (68, 120), (34, 60)]
    assert outputs["pred_boxes"].isfinite().all()


def test_one_model_takes_another_size_after_the_first_and_keeps_nothing_of_it(make_model):
    model, fresh = make_model().eval(), make_model().eval()
    first, second = torch.rand(1, 3, 64, 96), torch.rand(1, 3, 96, 64)
    with torch.inference_mode():
        model(first)
    with torch.no_grad():
        torch.testing.assert_close(model(second), fresh(second))
    assert model.state_dict().keys() == make_model().state_dict().keys()
    # What was cached in inference mode must not spoil training.
    model.train()(first, None)["pred_logits"].sum().backward()


def test_fewer_tokens_than_queries_give_fewer_queries(make_model):
    outputs = make_model(num_queries=300).eval()(torch.rand(1, 3, 64, 64))
    assert outputs["pred_logits"].shape[1] == 8 * 8 + 4 * 4 + 2 * 2


def test_positions_encode_the_row_then_the_column_of_row_major_tokens():
    height, width, dim = 3, 5, 8
    position = sincos_position(height, width, dim)
    for row in range(height):
        for column in range(width):
            frequencies = (1.0, 10_000**-0.5)
            expected = [f(side * w) for side in (row, column) for f in (math.sin, math.cos) for w in frequencies]
            assert position[row * width + column].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [(3, 5), (5, 3), (34, 60)])
def test_tokens_and_positions_are_in_the_same_order(size):
    height, width, dim = *size, 32
    torch.manual_seed(0)
    encoder = HybridEncoder(in_channels=[8, 8, 8], dim=dim, feedforward_dim=64, expansion=1.0, num_heads=4).eval()
    x = torch.randn(1, dim, height, width)
    # Attention does not care about the order of the tokens, so walking column by column must give the same.
    tokens = x.permute(0, 3, 2, 1).flatten(1, 2)
    position = sincos_position(height, width, dim).view(height, width, dim).transpose(0, 1).flatten(0, 1)
    column_major = encoder.encoder[0]["layers"][0](tokens, position[None])
    expected = column_major.view(1, width, height, dim).permute(0, 3, 2, 1)
    torch.testing.assert_close(encoder._attend(x), expected, atol=1e-5, rtol=1e-4)
    scrambled = encoder.encoder[0]["layers"][0](tokens, sincos_position(height, width, dim)[None])
    assert not torch.allclose(scrambled, column_major, atol=1e-2)


def test_anchors_lie_at_the_centres_of_row_major_cells():
    logits, valid = make_anchors([(2, 4), (1, 2)])
    anchors = logits.sigmoid()[0]
    assert valid.all()
    torch.testing.assert_close(anchors[1], torch.tensor([3 / 8, 1 / 4, 0.05, 0.05]))
    torch.testing.assert_close(anchors[4], torch.tensor([1 / 8, 3 / 4, 0.05, 0.05]))
    torch.testing.assert_close(anchors[9], torch.tensor([3 / 4, 1 / 2, 0.1, 0.1]))


def test_anchors_within_a_hundredth_of_the_border_are_infinite():
    logits, valid = make_anchors([(135, 240)])
    grid = valid.view(135, 240)
    # Column 0 is centred at 0.5 / 240 and column 1 at 0.6%, column 2 at 1.04%; row 0 at 0.37%, row 1 at 1.1%.
    assert grid[60].tolist() == [False] * 2 + [True] * 236 + [False] * 2
    assert grid[:, 120].tolist() == [False] + [True] * 133 + [False]
    assert logits.isinf().all(-1).view(135, 240).equal(~grid)


@pytest.mark.parametrize("name", ["vd10", "torchvision18"])
def test_bytes_equal_floats_and_reach_the_backbone_normalised(make_model, name):
    model = make_model(backbone=BACKBONES[name]()).eval()
    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        torch.testing.assert_close(model(images), model(images.float() / 255))
    pixels = images.float() / 255
    if name == "torchvision18":
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(seen[0], pixels)
    torch.testing.assert_close(seen[1], pixels)
    assert {"pixel_mean", "pixel_std"} <= model.state_dict().keys()
