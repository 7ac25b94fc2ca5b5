"""Checking a whole configuration against the code before a run exists: names, types, ranges, permitted classes."""

import inspect
import os
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neo_model.config import schema
from neo_model.config.compose import CONF, choices
from neo_model.config.instantiate import instantiate
from neo_model.config.problems import raise_all, unknown_name
from neo_model.config.secrets import secrets_in
from neo_model.config.targets import TARGET, find_class
from neo_model.config.values import mismatch, object_class
from neo_model.utils import UserError
from neo_model.utils.files import check_present

# Building these takes next to nothing and lets their constructors refuse what type hints cannot express.
CHEAP_NODES = ("data", "optim", "schedule", "ema", "evaluation", "logger")
DATA_FILES = ("train_annotations", "val_annotations")
DATA_FOLDERS = ("train_images", "val_images")


def check_training(config: DictConfig, found: Iterable[UserError] = (), *, loads_weights: bool = False) -> None:
    """Everything that can be known to be wrong with a training run before it starts; see `validate_training`.

    What is cheap comes first: without its files a data set is refused before torch is imported.

    Args:
        config: all keys of a training run.
        found: what is already known to be wrong.
        loads_weights: whether the file that ``weights`` names is going to be read.
    """
    if not found:
        check_files(config)
    validate_training(config, found)
    if loads_weights:
        check_weights(config)
    preflight(config)


def validate_training(config: DictConfig, found: Iterable[UserError] = (), *, building: bool = True) -> None:
    """Check a training configuration; no file is read and no device asked for.

    Args:
        config: all keys of a training run.
        found: what is already known to be wrong, to be reported first.
        building: whether what is cheap is built, for its constructors to refuse more than names and types.

    Raises:
        UserError: one error that lists everything wrong.
    """
    plain, unresolved = _resolved(config, found)
    found = [*found, *unresolved, *secrets_in(OmegaConf.to_container(config))]
    known = [*schema.TRAINING_SETTINGS, *schema.TRAINING_NODES, "logger"]
    found += [unknown_name(key, known, where=key, what="key") for key in plain if key not in known]
    found += _check_settings(plain, schema.TRAINING_SETTINGS)
    for key, package in schema.TRAINING_NODES.items():
        found += _check_node(key, plain.get(key), frozenset({package}))
    found += _check_loggers(plain.get("logger"))
    if building and not found:
        found = _refused_by_constructors(plain)
    raise_all(found)


def preflight(config: DictConfig, *, training: bool = True, drawing: bool = True) -> None:
    """Check what a valid training configuration needs from this machine: its data, which may be generated, and device.

    Args:
        config: a validated configuration.
        training: whether the training images are needed too.
        drawing: whether a new data set may be drawn; if not, only in another size of one that is there.

    Raises:
        UserError: one error that lists everything missing.
    """
    from neo_model.data import ShapesData

    found = []
    try:
        data = instantiate(config.data, key="data")
        if not drawing and isinstance(data, ShapesData):
            data.refuse_to_draw_more()
        data.prepare(training=training)
    except UserError as error:
        found.append(error)
    try:
        instantiate(config.hardware, key="hardware")
    except UserError as error:
        found.append(error)
    raise_all(found)


def check_files(config: DictConfig) -> None:
    """Refuse a data set whose files are absent, as `preflight` would, but without the seconds of importing torch.

    Raises:
        UserError: naming what is missing and the command that fetches it.
    """
    try:
        data = OmegaConf.to_container(config.data, resolve=True)
    except OmegaConfBaseException:
        return  # for `validate_training` to report
    paths = {key: data.get(key) for key in (*DATA_FILES, *DATA_FOLDERS)}
    if all(isinstance(path, str) for path in (*paths.values(), data.get(schema.PATH_PREFIX, ""))):
        check_present(
            data.get("name"),
            files=[Path(paths[key]) for key in DATA_FILES],
            folders=[Path(paths[key]) for key in DATA_FOLDERS],
            fetch_hint=data.get("fetch_hint"),
        )


def check_weights(config: DictConfig) -> None:
    """Refuse a path of ``weights`` that leads to nothing, before data are drawn or read.

    Raises:
        UserError: as when a run would load them.
    """
    weights = OmegaConf.to_container(config).get("weights")  # a reference is left to the check of all keys
    if not isinstance(weights, str) or "${" in weights or os.path.exists(weights):
        return
    from neo_model.models.hub import PREFIX  # with torch
    from neo_model.models.weights import read_weights

    if not weights.startswith(PREFIX):
        read_weights(weights)


def validate_evaluation(config: DictConfig, found: Iterable[UserError] = ()) -> None:
    """Check eval.py's own keys; raises one ``UserError`` that lists everything wrong."""
    plain, unresolved = _resolved(config, found)
    raise_all([*found, *unresolved, *_check_settings(plain, schema.EVALUATION_SETTINGS)])


def check_node(key: str, node: Any, expected: type) -> None:
    """Check one node of a plain configuration before it is built.

    Args:
        key: its dotted key in a training configuration, for example "data.resolution".
        node: the plain value there, without references.
        expected: the class, or a base of it, that must stand there.

    Raises:
        UserError: one error that lists everything wrong.
    """
    raise_all(_check_node(key, node, frozenset({schema.TRAINING_NODES[key.split(".")[0]]}), expected))


def _resolved(config: DictConfig, found: Iterable[UserError]) -> tuple[dict, list[UserError]]:
    """The plain configuration with interpolations resolved, and the keys that were not given or do not resolve."""
    missing = _missing_keys("", OmegaConf.to_container(config))
    absent = [UserError(key, "is not given", f"add {key}=VALUE") for key in missing]
    config = config.copy()
    for key in missing:
        OmegaConf.update(config, key, "not given")
    try:
        return OmegaConf.to_container(config, resolve=True), absent
    except OmegaConfBaseException as error:
        where = str(error.full_key or "configuration")
        remedy = "correct it, or set the environment variable it names"
        unresolved = UserError(where, str(error).splitlines()[0], remedy)
        raise_all([*found, *absent, unresolved])
        raise


def _missing_keys(prefix: str, plain: dict) -> list[str]:
    keys = []
    for name, value in plain.items():
        if isinstance(value, dict):
            keys += _missing_keys(f"{prefix}{name}.", value)
        elif value == "???":
            keys.append(f"{prefix}{name}")
    return keys


def _check_settings(plain: dict, settings: dict[str, Any]) -> list[UserError]:
    found = []
    for key, hint in settings.items():
        if key not in plain:
            found.append(UserError(key, "is missing from the configuration", f"add {key}=VALUE"))
        elif problem := mismatch(plain[key], hint):
            found.append(UserError(key, *problem))
    return found


def _check_loggers(loggers: Any) -> list[UserError]:
    if not isinstance(loggers, dict) or TARGET in loggers:
        return [UserError("logger", "is not a group of named loggers", f"use logger={'|'.join(choices('logger'))}")]
    package = frozenset({schema.LOGGER_PACKAGE})
    return [problem for name, node in loggers.items() for problem in _check_node(f"logger.{name}", node, package)]


def _check_node(key: str, node: Any, packages: frozenset[str], expected: type = object) -> list[UserError]:
    """Compare a node with the signature of the class it names.

    Args:
        key: the node's dotted key.
        node: the plain value there.
        packages: packages whose classes it may name.
        expected: the class, or a base of it, that must stand here.
    """
    if not isinstance(node, dict) or TARGET not in node:
        return [_not_a_node(key, node)]
    try:
        target = find_class(key, node[TARGET], packages)
    except UserError as error:
        return [error]
    if not issubclass(target, expected):
        return [UserError(f"{key}.{TARGET}", f"{target.__name__} is not a {expected.__name__}", "choose another class")]
    parameters = inspect.signature(target).parameters
    hints = {schema.PATH_PREFIX: str, **typing.get_type_hints(target.__init__, include_extras=True)}
    found = []
    for name, value in node.items():
        where = f"{key}.{name}"
        if name == TARGET:
            continue
        if name in schema.SUPPLIED:
            found.append(UserError(where, schema.SUPPLIED[name], "leave it out"))
        elif name not in parameters and name != schema.PATH_PREFIX:
            known = parameters.keys() - schema.SUPPLIED
            found.append(unknown_name(name, known, where=where, what="key", prefix=f"{key}."))
        else:
            found += _check_value(where, value, hints.get(name, Any), packages)
    required = [name for name, entry in parameters.items() if entry.default is entry.empty]
    absent = [name for name in required if name not in node and name not in schema.SUPPLIED]
    return [*found, *(UserError(f"{key}.{name}", "is not given", f"add {key}.{name}=VALUE") for name in absent)]


def _check_value(where: str, value: Any, hint: Any, packages: frozenset[str]) -> list[UserError]:
    expected = object_class(hint)
    if expected is not None:
        optional = value is None and type(None) in typing.get_args(hint)
        return [] if optional else _check_node(where, value, packages, expected)
    problem = mismatch(value, hint)
    return [UserError(where, *problem)] if problem else []


def _not_a_node(key: str, value: Any) -> UserError:
    """The error for a plain value where a node should be, most often a dot typed for a slash."""
    group, shown = key.replace(".", "/"), "null" if value is None else repr(value)
    if (CONF / group).is_dir():
        wanted = value if value in choices(group) else "|".join(choices(group))
        return UserError(key, f"{shown} is a value where a group of settings belongs", f"write {group}={wanted}")
    return UserError(key, f"{shown} is not a group of settings with {TARGET}", "see the files in conf/")


def _refused_by_constructors(plain: dict) -> list[UserError]:
    found = []
    for key in CHEAP_NODES:
        try:
            instantiate(plain[key], key=key)
        except UserError as error:
            found.append(error)
    return found
