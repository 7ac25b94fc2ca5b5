"""What a command line may change of Hydra itself: where runs go and which launcher and sweeper start them.

Everything else under ``hydra`` can name code to run (callbacks, logging factories), before any check of ours.
"""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from neo_model.config.compose import parse_overrides
from neo_model.config.problems import raise_all
from neo_model.config.targets import TARGET, nested_targets
from neo_model.utils import UserError

PERMITTED = re.compile(r"hydra(\.run\.dir|\.sweep\.(dir|subdir)|[./](launcher|sweeper)(\..*)?)")
PERMITTED_TARGETS = ("hydra._internal.core_plugins.", "hydra_plugins.", "optuna.samplers.")
LOGGING_KEYS = {"version", "root", "disable_existing_loggers"}


def is_hydra_override(override: str) -> bool:
    """Whether an override concerns Hydra itself."""
    return re.match(r"[+~]*hydra([./@=:]|$)", override) is not None


def permitted_overrides(overrides: list[str]) -> list[str]:
    """The overrides, if none of them reaches into Hydra where code could be named.

    Raises:
        UserError: listing those that do.
    """
    remedy = "of Hydra only hydra.run.dir, hydra.sweep.dir, hydra/launcher and hydra/sweeper can be set"
    found = []
    for override in parse_overrides(overrides):
        key, package = override.key_or_group, override.package or ""
        into_hydra = key.split(".")[0].split("/")[0] == "hydra" or package.split(".")[0] == "hydra"
        if into_hydra and (not PERMITTED.fullmatch(key) or package or TARGET in override.input_line):
            found.append(UserError(override.input_line, "is refused", remedy))
    raise_all(found)
    return overrides


def check_composed_hydra(config: DictConfig) -> None:
    """Check Hydra's part of a composed configuration, which files of the user's may have changed as well.

    Raises:
        UserError: it has callbacks or log handlers, or names code outside Hydra and its plugins.
    """
    plain = OmegaConf.to_container(config.hydra)
    raise_all([UserError(key, "is refused", "leave Hydra's callbacks and logging alone") for key in _refused(plain)])


def _refused(plain: dict[str, Any]) -> Iterator[str]:
    if plain.get("callbacks"):
        yield "hydra.callbacks"
    for name in ("job_logging", "hydra_logging"):
        logging = plain.get(name) or {}
        if logging.keys() - LOGGING_KEYS or logging.get("root"):
            yield f"hydra.{name}"
    for key, target in nested_targets("hydra", plain):
        if not str(target).startswith(PERMITTED_TARGETS):
            yield f"{key}.{TARGET}"
