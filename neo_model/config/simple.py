"""Settings of the smaller commands: one flat file of conf/ under overrides, checked, as a plain dictionary."""

from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neo_model.config.compose import compose_collecting, without_hydra
from neo_model.config.problems import raise_all, unknown_name
from neo_model.config.values import mismatch
from neo_model.utils import UserError


def read_settings(name: str, overrides: list[str], hints: dict[str, Any]) -> dict[str, Any]:
    """Compose conf/NAME.yaml with command-line overrides.

    Args:
        name: the file, without .yaml.
        overrides: key=value texts.
        hints: every key that there is, and the type hint of its value.

    Raises:
        UserError: one error that lists everything wrong.
    """
    config, found = compose_collecting(name, overrides)
    try:
        plain = OmegaConf.to_container(without_hydra(config), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = str(error.full_key or name)
        raise UserError(where, str(error).splitlines()[0], "correct the reference or give a value") from error
    found += [unknown_name(key, hints, where=key, what="key") for key in plain if key not in hints]
    wrong = [(key, mismatch(plain[key], hint)) for key, hint in hints.items()]
    raise_all([*found, *(UserError(key, *problem) for key, problem in wrong if problem is not None)])
    return plain
