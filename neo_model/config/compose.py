"""Composing configurations from conf/ with Hydra, errors in our form, nothing left behind."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from neo_model.config import problems, schema
from neo_model.config.user_files import check_user_files, not_yaml
from neo_model.utils import UserError
from neo_model.utils.signals import raise_interruption_before
from neo_model.utils.untrusted import refuse_reference_bomb

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
VERSION_BASE = "1.3"
HYDRAS_REFERENCES = 11  # in its part of each composed configuration

LAUNCHING = ("hydra", "sweep")  # top-level keys that say how runs are started; no run keeps them
# A search space is of the sweep as well.
LAUNCHING_GROUPS = ("hparams_search",)

CompositionError = (HydraException, OmegaConfBaseException)


def set_environment() -> None:
    """Tell the configuration where this checkout lies, so that experiments/ is found from any folder.

    What Hydra only warns of, such as a file in the place of one of its own, is an error.
    """
    os.environ["NEO_MODEL_ROOT"] = str(ROOT)
    os.environ["HYDRA_DEPRECATION_WARNINGS_AS_ERRORS"] = "1"


def compose_training(overrides: list[str] = (), *, config_dir: str | None = None) -> DictConfig:
    """The configuration of a training run.

    Args:
        overrides: as on the command line, for example ``["data=coco", "optim.lr=2e-4"]``.
        config_dir: a further folder of configurations.

    Returns:
        All keys of conf/train.yaml and its groups, interpolations not yet resolved, closed to new keys.

    Raises:
        UserError: naming everything that does not compose.
    """
    return without_hydra(compose("train", overrides, config_dir=config_dir))


def compose_node(group: str, choice: str) -> dict:
    """What conf/GROUP/CHOICE.yaml stands for, as a plain resolved dictionary; for example ("model", "rtdetr_r50").

    Raises:
        UserError: there is no such choice.
    """
    if choice not in choices(group):
        raise problems.unknown_name(choice, choices(group), where=f"{group}={choice}", what="choice")
    return OmegaConf.to_container(OmegaConf.select(compose_training([f"{group}={choice}"]), group), resolve=True)


def without_hydra(config: DictConfig) -> DictConfig:
    """The configuration without what is of Hydra or the sweep and not of the run, closed to new keys."""
    config = OmegaConf.masked_copy(config, [key for key in config if key not in LAUNCHING])
    OmegaConf.set_struct(config, True)
    return config


def compose(name: str, overrides: list[str], *, config_dir: str | None = None) -> DictConfig:
    """conf/NAME.yaml under overrides, with the ``hydra`` node; raises one ``UserError`` for all that does not fit."""
    config, found = compose_collecting(name, overrides, config_dir=config_dir)
    problems.raise_all(found)
    return config


def compose_collecting(
    name: str, overrides: list[str], *, config_dir: str | None = None
) -> tuple[DictConfig, list[UserError]]:
    """Like ``compose``, but returns what is wrong, so that the rest can be checked as well.

    An override that does not fit is left out of the configuration.
    """
    remaining, found = _without_odd_choices(overrides)
    with _initialized(config_dir):
        while True:
            try:
                config = hydra.compose(name, remaining, return_hydra_config=True)
                if config_dir is not None:
                    where = f"--config-dir={config_dir}"
                    refuse_reference_bomb(where, OmegaConf.to_container(config), own=HYDRAS_REFERENCES)
                return config, found
            except CompositionError as error:
                raise_interruption_before(error)
                culprit = _culprit(error, remaining)
                kept = [text for text in remaining if text != culprit]
                found.append(problems.from_hydra(error, _base(name, kept), group_names()))
                if culprit is None:
                    problems.raise_all(found)
                remaining = kept
            except YAMLError as error:
                problems.raise_all([*found, not_yaml(error)])


def _without_odd_choices(overrides: list[str]) -> tuple[list[str], list[UserError]]:
    """The overrides that Hydra can deal with, and errors for the others.

    Those are choices that are not text, such as ``hardware=3090``, and ``~data``: without the node that this takes
    away, errors about the keys in it would say nothing.
    """
    remaining, found = [], []
    for override in parse_overrides(overrides):
        group, value = override.key_or_group, override.value()
        is_odd = isinstance(value, int | float) or value is None
        if override.is_delete() and group in (*schema.TRAINING_NODES, "logger"):
            remedy = f"write {group}={'|'.join(choices(group))}"
            found.append(UserError(override.get_key_element(), "leaves out what every run needs", remedy))
        elif is_group(group) and is_odd and not override.is_sweep_override() and not override.is_delete():
            name = "null" if value is None else str(value)
            found.append(problems.unknown_name(name, choices(group), where=f"{group}={name}", what="choice"))
        else:
            remaining.append(override.input_line)
    return remaining, found


def parse_overrides(overrides: list[str]) -> list[Override]:
    """Hydra's reading of command-line overrides; raises ``UserError`` for one it cannot read."""
    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        if not re.match(r"[+~]*[\w$]", text):
            raise UserError(text, "does not begin with a key", "write key=value")
        try:
            parsed += parser.parse_overrides([text])
        except OverrideParseException as error:
            raise problems.from_hydra(error, OmegaConf.create(), []) from error
        except ValueError as error:  # Python reads no more than 4,300 digits
            key = text.partition("=")[0]
            raise UserError(key, "gives a number of too many digits", "give a shorter one, or quoted text") from error
    return parsed


def is_launching(override: str) -> bool:
    """Whether an override says how runs are started, not what they train."""
    return re.split(r"[./@=:]", override.lstrip("+~"))[0] in (*LAUNCHING, *LAUNCHING_GROUPS)


def choices(group: str) -> list[str]:
    """Names to choose from in a config group, for example ``choices("data/resolution")``."""
    folder = ROOT / group if group == "experiments" else CONF / group
    return sorted((path.stem for path in folder.glob("*.yaml")), key=_by_numbers)


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Sorting key that puts 480x270 before 1280x720, and text after numbers."""
    return [(int(part), "") if part.isdigit() else (sys.maxsize, part) for part in re.findall(r"\d+|\D+", name)]


def is_group(key: str) -> bool:
    """Whether a key of an override stands for a group of choices."""
    return key == "experiments" or (CONF / key).is_dir()


def group_names() -> list[str]:
    """All config groups that hold choices, for example "model" and "model/backbone"."""
    folders = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir())
    return [*(group for group in folders if choices(group)), *(["experiments"] if choices("experiments") else [])]


@contextmanager
def _initialized(config_dir: str | None) -> Iterator[None]:
    """Hydra with our folder, and the user's; whatever Hydra state was there before comes back afterwards."""
    set_environment()
    version.setbase(VERSION_BASE)
    search_path = create_config_search_path(str(CONF))
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise UserError("--config-dir", f"{config_dir} is not a folder", "give a folder of configurations")
        check_user_files(Path(config_dir))
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}", SearchPathQuery(provider="schema"))
    state = GlobalHydra.instance()
    before = state.hydra
    state.clear()
    try:
        Hydra.create_main_hydra2(task_name="neo_model", config_search_path=search_path)
        yield
    finally:
        state.hydra = before


def _base(name: str, overrides: list[str]) -> DictConfig:
    """A configuration to suggest keys from, Hydra's too: the overrides' if they compose, else the bare one."""
    for attempt in (overrides, []):
        try:
            return hydra.compose(name, attempt, return_hydra_config=True)
        except CompositionError:
            continue
    return OmegaConf.create()


def _culprit(error: Exception, overrides: list[str]) -> str | None:
    """Which of the overrides the error is about."""
    if isinstance(error, OverrideParseException):
        return error.override
    missing = getattr(error, "missing_cfg_file", None)
    text = str(error)
    for override in OverridesParser.create().parse_overrides(overrides):
        if missing is not None:
            if f"{override.key_or_group}/{override.value()}" == missing:
                return override.input_line
        elif f"'{override.get_key_element().lstrip('+~')}'" in text or override.input_line in text:
            return override.input_line
    return None
