"""Configurations against the signatures they will be called with."""

import pytest

from neo_model.config.compose import compose_training
from neo_model.config.instantiate import instantiate
from neo_model.config.validate import preflight, validate_training
from neo_model.utils import UserError


def error_of(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        validate_training(compose_training(list(overrides)))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("hardware.device=tpu", ["hardware.device", "auto or cpu or cuda"]),
        ("+modle=3", ["modle", "did you mean model?"]),
        ("~optim.lr", ["optim.lr", "is not given"]),
        ("hardware.recompute=null", ["hardware.recompute: null is not a list, each entry backbone or encoder; give"]),
        ("epochs=0", ["epochs: 0 is not a whole number between 1 and 2147483647"]),
        ("seed=-1", ["seed", "between 0 and"]),
        ("debug=3", ["debug", "true or false"]),
        ("data.resolution=1280x720", ["data.resolution", "write data/resolution=1280x720"]),
        ("model.backbone=resnet50vd", ["model.backbone", "write model/backbone=resnet50vd"]),
        ("data.resolution=null", ["data.resolution: null is a value where a group", "write data/resolution=480x270|"]),
        ("criterion.matcher=null", ["criterion.matcher", "null"]),
        ("data.resolution.width=wide", ["data.resolution.width", "'wide'"]),
        ("logger.tensorboard.picture=1", ["logger.tensorboard.picture", "no such key"]),
        ("+model.num_classes=3", ["model.num_classes", "comes from the annotations"]),
        ("data=custom", ["data.root", "is not given", "data.root=VALUE"]),
        ("seed=${oc.env:NEO_MODEL_NO_SUCH_VARIABLE}", ["seed", "NEO_MODEL_NO_SUCH_VARIABLE"]),
    ],
)
def test_a_bad_value_is_refused_in_one_line(override, parts):
    text = error_of(override)
    assert all(part in text for part in parts), text


def test_everything_wrong_is_reported_together():
    text = error_of("optim.lr=fast", "+optim.lrr=1", "hardware.batch_size=0", "epochs=0")
    assert "1 of 4 errors" in text
    for key in ("optim.lr:", "optim.lrr:", "hardware.batch_size:", "epochs:"):
        assert key in text


def test_whole_numbers_and_exponents_are_numbers():
    validate_training(compose_training(["optim.lr=1", "optim.weight_decay=1e-4"]))


def test_an_object_of_the_wrong_kind_is_refused():
    assert "Augmentation is not a Resolution" in error_of("data.resolution._target_=neo_model.data.Augmentation")


def test_missing_data_is_reported_with_the_command_that_fetches_it(tmp_path):
    config = compose_training(["data=coco", f"data.root={tmp_path}"])
    validate_training(config)
    with pytest.raises(UserError, match=r"python -m neo_model\.data\.prepare"):
        preflight(config)


def test_a_data_sets_root_is_for_its_paths_only(tmp_path):
    config = compose_training(["data=custom", f"data.root={tmp_path}"])
    data = instantiate(config.data, key="data")
    assert data.train_images == tmp_path / "images"


def test_supplied_arguments_reach_the_object():
    criterion = instantiate(compose_training().criterion, key="criterion", num_classes=7)
    assert criterion.num_classes == 7
    assert isinstance(instantiate(compose_training().optim, key="optim").betas, tuple)
