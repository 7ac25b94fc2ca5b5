"""Weights in the forms of other programs: what is written there predicts the same."""

import json

import numpy as np
import pytest
import torch

from neo_model.deploy.convert import main, official_state, write_huggingface
from neo_model.deploy.predict import load_trained
from neo_model.models import TorchvisionResNet, load_weights
from neo_model.utils import UserError
from tests import golden
from tests.models.test_huggingface import (
    NAMES,
    PUBLISHED,
    SIZES_HW,
    SIZES_HW_IN_FULL,
    SMALL,
    assert_same_predictions,
    our_model,
    scramble,
    transformers,
)


def their_model(folder):
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, said = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


@pytest.mark.parametrize("name", [*SMALL, *PUBLISHED])
def test_transformers_loads_the_folder_and_predicts_the_same(tmp_path, name):
    ours = scramble(our_model(name))
    write_huggingface(ours, tmp_path / "out", class_names=NAMES, size_wh=(1920, 1080))
    theirs = their_model(tmp_path / "out")
    assert theirs.config.id2label == dict(enumerate(NAMES))
    for size_hw in SIZES_HW if name in SMALL else SIZES_HW_IN_FULL:
        assert_same_predictions(ours, theirs, size_hw)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    pixels = processor(images=np.zeros((1080, 1920, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert list(pixels.shape) == [1, 3, 1088, 1920], "sides are rounded up to what 32 divides"


def test_the_processor_only_scales_pixels(tmp_path):
    write_huggingface(our_model("basic"), tmp_path / "out", class_names=NAMES, size_wh=(96, 64))
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    pixels = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")(images=image, return_tensors="pt")
    expected = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(pixels["pixel_values"], expected)


def test_layers_behind_the_evaluations_are_left_out(tmp_path):
    ours = our_model("basic")
    ours.decoder.eval_layer = 0
    write_huggingface(scramble(ours), tmp_path / "out", class_names=NAMES, size_wh=(160, 160))
    theirs = their_model(tmp_path / "out")
    assert theirs.config.decoder_layers == 1
    assert_same_predictions(ours, theirs, (160, 160))


def test_a_backbone_that_transformers_lacks_is_refused(make_model, tmp_path):
    model = make_model(backbone=TorchvisionResNet(name="resnet18"))
    with pytest.raises(UserError, match="TorchvisionResNet has no counterpart"):
        write_huggingface(model, tmp_path / "out", class_names=["a", "b", "c"], size_wh=(96, 64))
    assert not list(tmp_path.iterdir())


def test_other_numbers_of_points_on_each_map_are_refused(make_model, tmp_path):
    model = make_model(version=2, num_points=[4, 2, 1])
    with pytest.raises(UserError, match=r"model.num_points: \[4, 2, 1\] differ from map to map"):
        write_huggingface(model, tmp_path / "out", class_names=["a", "b", "c"], size_wh=(96, 64))


def test_the_command_writes_both_forms_of_a_checkpoint(make_checkpoint, tmp_path, capsys):
    checkpoint = make_checkpoint()
    trained = load_trained(checkpoint).model
    for to, out in (("huggingface", tmp_path / "folder"), ("official", tmp_path / "official.pth")):
        assert main([f"ckpt={checkpoint}", f"to={to}", f"out={out}"]) == 0
        assert main([f"ckpt={checkpoint}", f"to={to}", f"out={out}"]) == 2
        assert "exists; give another path" in capsys.readouterr().err
        copy = load_trained(checkpoint).model
        for parameter in copy.parameters():
            torch.nn.init.zeros_(parameter)
        load_weights(copy, out)
        for key, value in trained.state_dict().items():
            torch.testing.assert_close(copy.state_dict()[key], value, atol=0, rtol=0)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["id2label"] == {"0": "person", "1": "tram"}


def test_a_published_name_is_fetched(make_model, tmp_path, monkeypatch):
    published = make_model(num_classes=80)
    torch.save({"model": published.state_dict()}, tmp_path / "published.pth")
    for module in ("neo_model.deploy.convert", "neo_model.models.weights"):
        there = {"hub:rtdetr_r50_coco": tmp_path / "published.pth"}
        monkeypatch.setattr(f"{module}.local_path", lambda path: there.get(str(path), path))
    built = []
    monkeypatch.setattr(
        "neo_model.config.build.build_model_from_config",
        lambda node, num_classes: built.append(node) or make_model(num_classes=num_classes),
    )
    out = tmp_path / "out.pth"
    assert main(["ckpt=hub:rtdetr_r50_coco", "model=rtdetr_r50", "to=official", f"out={out}"]) == 0
    assert (built[0]["backbone"]["depth"], built[0]["_target_"]) == (50, "neo_model.models.RTDETR")
    written = torch.load(out, weights_only=True)["ema"]["module"]
    torch.testing.assert_close(written["decoder.enc_score_head.weight"], published.decoder.enc_score_head.weight.data)


def test_official_files_have_the_published_names():
    state = official_state(our_model("basic"))
    assert {"encoder.input_proj.0.0.weight", "encoder.input_proj.2.1.running_var"} <= set(state)
    assert {"decoder.input_proj.0.conv.weight", "decoder.enc_output.0.weight"} <= set(state)
    assert not any(key.startswith(("pixel_", "encoder.input_proj.0.conv")) for key in state)
    second = official_state(our_model("v2"))
    described, _ = golden.load("rtdetrv2_r18vd")
    listed = {name for name in second if not name.endswith(("num_batches_tracked", "class_embed.weight"))}
    scales = {f"decoder.decoder.layers.{i}.cross_attn.num_points_scale" for i in range(2)}
    assert scales <= listed and listed - scales <= set(described["state_dict"])
