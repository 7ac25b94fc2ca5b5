"""What is checked before the first job of ``python train.py -m``: every job that may start."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from neo_model.config.compose import CONF, ROOT, compose_collecting, parse_overrides, without_hydra
from neo_model.config.hydra_guard import check_composed_hydra, check_plugin_places
from neo_model.config.problems import raise_all
from neo_model.config.recipe import tell_what_recipes_keep
from neo_model.config.targets import TARGET
from neo_model.config.validate import check_training
from neo_model.config.values import mismatch
from neo_model.config.zipping import KEY, split_jobs
from neo_model.utils import UserError

SWEEP_SETTINGS = {"skip_existing": bool, "zip": list[str]}  # the node `sweep`


def check_jobs(overrides: list[str], config_dir: str | None) -> DictConfig:
    """Compose and check every job that Hydra's own sweeper will start; for a search, each combination of choices."""
    parsed = parse_overrides(overrides)
    own = [override.input_line for override in parsed if override.key_or_group.startswith("hydra")]
    # What Hydra itself starts from; of overrides that do not fit the jobs tell.
    start = [override.input_line for override in parsed if not override.is_sweep_override()]
    sweeper, _ = compose_collecting("train", start, config_dir=config_dir)
    check_composed_hydra(sweeper)
    check_plugin_places(sweeper, parsed)
    raise_all(_check_settings(sweeper.sweep))
    zipped = list(sweeper.sweep.zip)
    params = parse_overrides([f"{key}={value}" for key, value in (sweeper.hydra.sweeper.get("params") or {}).items()])
    shared = [*params, *(override for override in parsed if override.input_line not in own)]
    if sweeper.hydra.sweeper[TARGET].endswith(".BasicSweeper"):
        jobs = [own + job for job in split_jobs(shared, zipped)]
    else:
        if zipped:
            raise UserError(KEY, "does not go with a search", "leave it out")
        jobs = [own + job for job in _searched_jobs(shared, config_dir)]
    composed_jobs = [(job, *compose_collecting("train", job, config_dir=config_dir)) for job in jobs]
    for _, composed, _ in composed_jobs:
        check_composed_hydra(composed)
    found = []
    for _, composed, problems in composed_jobs:
        config = without_hydra(composed)
        try:
            if config.get("resume"):
                problems.append(UserError("resume", "does not go with -m", "resume one run at a time"))
            check_training(config, problems)
        except UserError as error:
            found.append(error)
    raise_all(found)
    tell_what_recipes_keep([(job, composed) for job, composed, _ in composed_jobs], config_dir)
    return composed


def _check_settings(sweep: DictConfig) -> list[UserError]:
    plain = OmegaConf.to_container(sweep)
    problems = {key: mismatch(plain.get(key), hint) for key, hint in SWEEP_SETTINGS.items()}
    return [UserError(f"sweep.{key}", *problem) for key, problem in problems.items() if problem]


def _searched_jobs(overrides: list[Override], config_dir: str | None) -> Iterator[list[str]]:
    """The overrides of jobs in which a search takes every combination of the files that it may choose."""
    # Like Optuna: what has one value comes last, and wins over a choice of the same key.
    last = {override.get_key_element(): override for override in sorted(overrides, key=_has_one_value)}
    lists = [[f"{key}={value}" for value in _values(override, config_dir)] for key, override in last.items()]
    return map(list, itertools.product(*lists))


def _has_one_value(override: Override) -> bool:
    return not override.is_sweep_override()


def _values(override: Override, config_dir: str | None) -> list[str]:
    """All that a search may take if those are files, which may hold anything; else one, to see whether it fits."""
    folders = [CONF, ROOT, *([Path(config_dir)] if config_dir else [])]
    if override.is_choice_sweep() and any((folder / override.key_or_group).is_dir() for folder in folders):
        return list(override.sweep_string_iterator())
    if override.is_interval_sweep():
        return [str(override.value().start)]
    if override.is_sweep_override():
        return [next(override.sweep_string_iterator())]
    return [override.get_value_element_as_str()]
