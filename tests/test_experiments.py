"""The frozen recipes still show what the log says they showed."""

import itertools
import json
import re
from pathlib import Path

import pytest

from neo_model.config.command_line import main
from neo_model.config.compose import choices, compose_training
from neo_model.config.validate import validate_training

FOLDER = Path(__file__).resolve().parents[1] / "experiments"

# As published: epochs, epoch that ends strong augmentation, multi-scale's last epoch (None: one size), rate of the
# backbone relative to the other parts, and what it starts from.
PUBLISHED_V2 = {
    "r18": (120, 117, None, 1.0, None),
    "r34": (120, 117, 117, 0.5, None),
    "r50_m": (84, 81, 81, 0.1, None),
    "r50": (72, 71, 71, 0.1, None),
    "r101": (72, 71, 71, 0.01, None),
    "hgnetv2_l": (72, 71, 71, 0.05, None),
    "hgnetv2_x": (72, 71, 71, 0.01, None),
    "hgnetv2_h": (72, 71, 71, 0.05, None),
    "r18_dsp": (36, 33, None, 1.0, "hub:rtdetrv2_r18_coco"),
    "r34_dsp": (12, 10, 10, 0.5, "hub:rtdetrv2_r34_coco"),
    "r50_m_dsp": (36, 33, 33, 0.1, "hub:rtdetrv2_r50_m_coco"),
    "r50_dsp": (12, 10, 10, 0.1, "hub:rtdetrv2_r50_coco"),
}


@pytest.mark.parametrize("name", PUBLISHED_V2)
def test_recipes_of_version_2_have_the_published_settings(name):
    epochs, strong_until, sizes_until, backbone, start = PUBLISHED_V2[name]
    config = compose_training([f"experiments=rtdetrv2_{name}_coco", "hardware=rtx3090"])
    assert (config.epochs, config.data.augment.until, config.weights) == (epochs, strong_until, start)
    assert (config.model.version, config.model.sampling == "discrete") == (2, name.endswith("_dsp"))
    assert (config.schedule.warmup_steps, config.hardware.precision) == (2000, "fp16")
    assert config.model.backbone.weights == "imagenet" or start is not None
    assert_common_settings(config, sizes_until, backbone)
    if sizes_until is None:
        assert config.data.resolution.train_sizes is None
    else:
        assert_published_sizes(config)


@pytest.mark.parametrize(
    ("name", "backbone"), [("r18", 0.1), ("r34", 0.1), ("r50_m", 0.1), ("r50", 0.1), ("r101", 0.01)]
)
def test_recipes_of_version_1_have_the_published_settings(name, backbone):
    config = compose_training([f"experiments=rtdetr_{name}_coco", "hardware=rtx3090"])
    assert config.model == compose_training([f"model=rtdetr_{name}", "model.backbone.weights=imagenet"]).model
    assert (config.epochs, config.data.augment.until, config.weights) == (72, None, None)
    assert (config.schedule.warmup_steps, config.hardware.precision) == (0, "fp32")
    assert_common_settings(config, None, backbone)
    assert_published_sizes(config)


def assert_common_settings(config, sizes_until: int | None, backbone: float) -> None:
    size, optim, hardware = config.data.resolution, config.optim, config.hardware
    assert (size.width, size.height, size.multiscale_until, config.data.fit) == (640, 640, sizes_until, "stretch")
    assert (optim.lr, optim.backbone_lr_ratio, optim.weight_decay, optim.clip_norm) == (1e-4, backbone, 1e-4, 0.1)
    assert hardware.batch_size * hardware.accumulate == 16
    assert config.schedule._target_ == "neo_model.optim.Constant"
    assert (config.ema.decay, config.ema.ramp) == (0.9999, 2000)


def assert_published_sizes(config) -> None:
    sides = [480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800]
    assert config.data.resolution.train_sizes == [[side, side] for side in sides]


@pytest.mark.parametrize("name", choices("experiments"))
def test_a_recipe_composes_and_its_header_says_how_to_run_it_and_what_to_expect(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    head = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    assert f"# python train.py experiments={name}" in head
    assert re.search(r"\d+ (s|min|h)\b", head), "no expected time"
    assert re.search(r"\bAP(50)? \d", head), "no expected figure"
    assert "Not run here" in head or f"`{name}`" in (FOLDER / "README.md").read_text()
    root = ["data.root=DIR"] if "override /data: custom" in text else []
    validate_training(compose_training([f"experiments={name}", *root]))


def test_overfit_takes_another_resolution():
    for choice in ("1280x720", "multiscale_16x9"):
        chosen = compose_training(["experiments=overfit", f"data/resolution={choice}"])
        assert chosen.data.resolution == compose_training([f"data/resolution={choice}"]).data.resolution
        validate_training(chosen)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_overfit_learns_five_images_by_heart(tmp_path):
    run_dir = tmp_path / "run"
    few = [f"data.root={tmp_path / 'shapes'}", "data.num_train=5", "data.num_val=1", "logger=none"]
    few += ["data.resolution.width=320", "data.resolution.height=180"]
    few += ["model.num_queries=100", "model.num_denoising=20"]  # for the time
    assert main("train", ["experiments=overfit", *few, f"hydra.run.dir={run_dir}"]) == 0
    records = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        records.setdefault(record["step"], {}).update(record)
    assert min(records[step]["train/loss_last_layer"] for step in range(1, 41)) < 1.0
    assert records[100]["train/loss_without_denoising"] < 1.0
    assert records[100]["val/AP50"] > 0.999
