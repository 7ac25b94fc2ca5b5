"""Models, criteria and data sets by the names that the configuration gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from torch import nn

from neo_model.config.compose import compose_collecting, compose_node, without_hydra
from neo_model.config.hydra_guard import is_hydra_override
from neo_model.config.instantiate import instantiate
from neo_model.config.values import mismatch
from neo_model.utils import PositiveInt, UserError

if TYPE_CHECKING:
    from neo_model.data import DetectionData


def build_model(name: str, *, num_classes: int) -> nn.Module:
    """A detector of conf/model with random weights.

    Args:
        name: for example ``rtdetr_r50``.
        num_classes: classes, background not counted.

    Raises:
        UserError: there is no such model, or no such number of classes.
    """
    _check_num_classes(num_classes)
    return build_model_from_config(compose_node("model", name), num_classes=num_classes)


def build_model_from_config(
    node: DictConfig | dict, *, num_classes: int, pretrained_backbone: bool = False
) -> nn.Module:
    """A detector from the ``model`` node of a configuration, such as the one in a checkpoint.

    Args:
        node: as it is there; references are followed.
        num_classes: classes, background not counted.
        pretrained_backbone: start from the weights that ``backbone.weights`` names. Without, they are left alone: what
            is going to be loaded holds all weights, and the file may be on another machine or on the internet.

    Raises:
        UserError: the backbone's weights cannot be fetched or do not fit.
    """
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    if not pretrained_backbone and "weights" in node["backbone"]:
        node = {**node, "backbone": {**node["backbone"], "weights": None}}
    return instantiate(node, key="model", num_classes=num_classes)


def build_criterion(name: str = "rtdetr", *, num_classes: int) -> nn.Module:
    """A criterion of conf/criterion: outputs and targets to a dictionary of weighted losses.

    Raises:
        UserError: there is no such criterion, or no such number of classes.
    """
    _check_num_classes(num_classes)
    return instantiate(compose_node("criterion", name), key="criterion", num_classes=num_classes)


def _check_num_classes(num_classes: int) -> None:
    if wrong := mismatch(num_classes, PositiveInt):
        raise UserError("num_classes", *wrong)


def build_data(overrides: list[str]) -> DetectionData:
    """The data set that ``train.py`` would train on under overrides such as ``["data=coco"]``; no file is read yet.

    Raises:
        UserError: one error that lists everything wrong with them.
    """
    from neo_model.config.validate import check_files, validate_training  # with the whole engine: only for this

    own = [override for override in overrides if is_hydra_override(override)]
    if own:
        raise UserError(own[0].partition("=")[0], "is for train.py", "leave it out")
    composed, found = compose_collecting("train", overrides)
    config = without_hydra(composed)
    if not found:
        check_files(config)
    validate_training(config, found)
    return instantiate(config.data, key="data")
