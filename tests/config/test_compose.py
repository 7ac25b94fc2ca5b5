"""What the choices of conf/ compose to."""

from importlib.util import find_spec

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from neo_model.config.compose import choices, compose_node, compose_training, group_names
from neo_model.config.validate import validate_training
from neo_model.utils import UserError


def test_the_default_is_a_small_run_on_generated_pictures():
    config = compose_training()
    assert config.data._target_ == "neo_model.data.ShapesData"
    assert (config.data.resolution.width, config.data.resolution.height) == (480, 270)
    assert config.model.backbone.depth == 10
    assert config.hardware.device == "auto"


def test_coco_on_an_rtx3090_is_the_published_recipe():
    config = compose_training(["data=coco", "hardware=rtx3090"])
    assert config.epochs == 72
    assert config.model.backbone.depth == 50
    assert config.model.num_decoder_layers == 6
    assert config.model.encoder_expansion == 1.0
    optim = {"lr": 1e-4, "backbone_lr_ratio": 0.1, "backbone_layer_decay": 1.0, "betas": [0.9, 0.999]}
    optim |= {"weight_decay": 1e-4, "clip_norm": 0.1}
    assert OmegaConf.to_container(config.optim) == {"_target_": "neo_model.optim.AdamW", **optim}
    assert config.schedule.milestones == [40, 55]
    assert (config.schedule.gamma, config.schedule.warmup_epochs) == (0.1, 5)
    assert (config.ema.decay, config.ema.ramp) == (0.9999, 2000)
    assert (config.evaluation.every, config.evaluation.conf_threshold) == (2, 0.01)
    hardware = config.hardware
    assert (hardware.precision, hardware.batch_size, hardware.accumulate) == ("fp16", 4, 2)
    assert (hardware.workers, hardware.prefetch, hardware.cudnn_benchmark) == (8, 4, True)
    resolution = config.data.resolution
    assert (resolution.width, resolution.height) == (1920, 1080)
    assert resolution.train_sizes == [[1600, 900], [1760, 990], [1920, 1080], [2080, 1170], [2240, 1260]]
    augment = config.data.augment
    assert (augment.photometric, augment.zoom_out, augment.iou_crop, augment.flip) == (0.5, 0.5, 0.8, 0.5)


def test_own_data_gets_r18_at_full_hd():
    config = compose_training(["data=custom", "data.root=/disk/mine"])
    assert config.model.backbone.depth == 18
    assert config.data.resolution.width == 1920
    assert config.data.train_annotations == "/disk/mine/instances_train.json"
    assert config.data.val_images == "/disk/mine/images"


@pytest.mark.parametrize(
    ("model", "depth", "layers", "expansion"),
    [("r18", 18, 3, 0.5), ("r34", 34, 4, 0.5), ("r50_m", 50, 6, 0.5), ("r50", 50, 6, 1.0), ("r101", 101, 6, 1.0)],
)
def test_published_model_sizes(model, depth, layers, expansion):
    node = compose_node("model", f"rtdetr_{model}")
    assert (node["backbone"]["depth"], node["num_decoder_layers"]) == (depth, layers)
    assert node["encoder_expansion"] == expansion
    assert node["eval_decoder_layer"] == (2 if model == "r50_m" else None)
    assert node["backbone"]["freeze_norm"] == (depth >= 50)
    assert node["encoder_dim"] == (384 if model == "r101" else 256)


def test_the_command_line_wins_over_what_a_data_set_brings():
    overrides = ["schedule=cosine", "model=tiny", "epochs=3", "data/resolution=640x360", "ema=none", "logger=none"]
    config = compose_training(["data=coco", *overrides, "model/backbone=torchvision_resnet50"])
    assert config.schedule._target_ == "neo_model.optim.Cosine"
    assert config.epochs == 3
    assert config.data.resolution.width == 640
    assert config.data.augment.zoom_out == 0.5
    assert config.ema.decay == 0
    assert config.logger == {}
    assert config.model.backbone.name == "resnet50"
    assert compose_training(["ema=none"]).ema.decay == 0


def test_an_experiment_wins_over_data_and_hardware_and_loses_to_the_command_line(tmp_path):
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /data: coco\n  - override /model: rtdetr_r34\n  - override /data/resolution: 640x360\n"
        "epochs: 7\nhardware: {batch_size: 3}\n"
    )
    config = compose_training(["experiments=mine", "hardware=rtx3090", "epochs=9"], config_dir=str(tmp_path))
    assert config.model.backbone.depth == 34
    assert config.data.name == "coco"
    assert config.data.resolution.width == 640
    assert config.hardware.batch_size == 3
    assert config.epochs == 9


def test_settings_of_this_machine_win_over_the_choices_and_lose_to_the_command_line(tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text(
        "# @package _global_\ndata: {root: /disk/coco}\nhardware: {workers: 3, prefetch: 5}\n"
    )
    overrides = ["data=coco", "hardware=rtx3090", "hardware.prefetch=1"]
    config = compose_training(overrides, config_dir=str(tmp_path))
    assert config.data.val_images == "/disk/coco/val2017"
    assert (config.hardware.workers, config.hardware.prefetch) == (3, 1)


NEEDED = {("data", "custom"): ["data.root=/disk/mine"], ("model/backbone", "timm"): ["model.backbone.name=dla34"]}


def test_every_choice_composes_and_fits_the_code():
    """Each once, in as many compositions as the largest group has choices: groups do not depend on each other."""
    groups = {group: choices(group) for group in group_names() if group not in ("experiments", "hparams_search")}
    for i in range(max(map(len, groups.values()))):
        chosen = {group: found[i] for group, found in groups.items() if i < len(found)}
        needed = [override for choice in chosen.items() for override in NEEDED.get(choice, [])]
        validate_training(compose_training([f"{group}={choice}" for group, choice in chosen.items()] + needed))


def test_every_search_composes_where_its_extra_is_installed():
    for choice in choices("hparams_search"):
        if find_spec("optuna") is None:
            with pytest.raises(UserError, match=r"hydra/sweeper=optuna: needs the extra \[optuna\]; pip install"):
                compose_training([f"hparams_search={choice}"])
        else:
            validate_training(compose_training([f"hparams_search={choice}"]))


def test_resolutions_are_listed_by_size():
    listed = choices("data/resolution")
    assert listed.index("480x270") < listed.index("960x540") < listed.index("1280x720") < listed.index("1920x1080")


def test_composing_leaves_hydra_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose_training().epochs >= 1
    assert not GlobalHydra.instance().is_initialized()


def test_environment_references_stay_unresolved(monkeypatch):
    monkeypatch.setenv("MY_DISK", "/secret")
    config = compose_training(["data=custom", "data.root=${oc.env:MY_DISK}"])
    assert "/secret" not in OmegaConf.to_yaml(config)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("model=rtdetr_r5", ["model=rtdetr_r5", "no such choice", "rtdetr_r50"]),
        ("modl=tiny", ["modl", "no such key", "did you mean model?"]),
        ("model/bakbone=tiny", ["model/bakbone", "did you mean model/backbone?"]),
        ("optim.lrr=1e-4", ["optim.lrr", "no such key", "did you mean optim.lr?"]),
        ("optimizer.lr=1e-4", ["optimizer.lr", "no such key"]),
        ("optim.lr=1e-4,2e-4", ["several values", "-m"]),
        ("optim.lr", ["optim.lr", "key=value"]),
        ("=3", ["=3", "key"]),
        ("data.root=a(b", ["data.root=a(b", "quote"]),
    ],
)
def test_an_override_that_does_not_fit_is_named_with_the_nearest_name(override, parts):
    with pytest.raises(UserError) as caught:
        compose_training([override])
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


def test_all_misfits_are_reported_at_once():
    with pytest.raises(UserError) as caught:
        compose_training(["modl=tiny", "optim.lrr=1", "model=rtdetr_r5", "epochs=3"])
    text = str(caught.value)
    assert "1 of 3 errors" in text
    assert "modl" in text and "optim.lrr" in text and "rtdetr_r5" in text
