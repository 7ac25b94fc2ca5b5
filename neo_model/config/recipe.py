"""What a recipe's own keys do to the groups chosen beside it on the command line."""

import json
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from neo_model.config.compose import compose, is_group, is_launching, parse_overrides
from neo_model.utils import UserError
from neo_model.utils.messages import tell
from neo_model.utils.secrets import redacted

RECIPES = "experiments"


def tell_what_recipes_keep(jobs: list[tuple[list[str], DictConfig]], config_dir: str | None) -> None:
    """Name, in a line for each recipe, the keys that it sets within groups that the command line chooses.

    Args:
        jobs: the overrides of each job and what they compose to, with the ``hydra`` node.
        config_dir: the further folder of configurations.
    """
    # Jobs of the same choices keep the same: a composition each would be seconds in a large sweep.
    distinct = {tuple(filter(_chooses, overrides)): (overrides, composed) for overrides, composed in jobs}
    kept, unknown = {}, {}
    for overrides, composed in distinct.values():
        try:
            for recipe, group, key, value in _kept(overrides, composed, config_dir):
                groups, keys = kept.setdefault(recipe, ({}, {}))
                groups[group], keys[key] = None, value
        except _NotComparable as error:
            unknown[error.args] = None
    for recipe, *groups in unknown:
        tell(redacted(f"note: {recipe} may keep keys of its own in the chosen {', '.join(groups)}; see --cfg job"))
    for recipe, (groups, keys) in kept.items():
        settings = ", ".join(f"{key}={_typed(value)}" for key, value in keys.items())
        remedy = "give them on the command line to change them"
        tell(redacted(f"note: {recipe} keeps {settings} over the chosen {', '.join(groups)}; {remedy}"))


class _NotComparable(Exception):
    """Without the recipe's own keys there is no configuration to compare; args: recipe and chosen groups."""


def _kept(overrides: list[str], composed: DictConfig, config_dir: str | None) -> Iterator[tuple[str, str, str, Any]]:
    """Recipe, group, key and value of each difference between the composition and one without the recipe's own keys."""
    parsed = parse_overrides(overrides)
    recipes = [override for override in parsed if override.key_or_group == RECIPES]
    others = [override for override in parsed if override.key_or_group != RECIPES]
    groups = [override.key_or_group for override in others if is_group(override.key_or_group)]
    groups = [group for group in groups if not is_launching(group)]
    if not recipes or not groups:
        return
    chosen = {key.partition("@")[0]: choice for key, choice in composed.hydra.runtime.choices.items()}
    same = [f"{group}={chosen[group]}" for group in chosen if group not in groups and _is_choice(group, chosen[group])]
    recipe = recipes[-1].input_line
    try:
        plain = compose("train", [override.input_line for override in others] + same, config_dir=config_dir)
    except UserError as error:  # the command line changes a key, or a group, that only the recipe brings
        raise _NotComparable(recipe, *groups) from error
    for key, value in _differences(OmegaConf.to_container(composed), OmegaConf.to_container(plain)):
        for group in groups:
            if key.startswith(f"{group.replace('/', '.')}."):
                yield recipe, group, key, value


def _chooses(override: str) -> bool:
    return is_group(re.split("[@=]", override.lstrip("+~"))[0])


def _is_choice(group: str, choice: Any) -> bool:
    return is_group(group) and not is_launching(group) and group != RECIPES and choice is not None


def _differences(config: dict, other: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of what is not the same in the other configuration, or is not there."""
    for name, value in config.items():
        if isinstance(value, dict) and isinstance(other.get(name), dict):
            yield from _differences(value, other[name], f"{prefix}{name}.")
        elif name not in other or value != other[name]:
            yield f"{prefix}{name}", value


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
