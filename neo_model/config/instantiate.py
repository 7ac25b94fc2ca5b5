"""Objects from configuration nodes: the one place that calls Hydra's instantiate."""

import inspect
import re
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from neo_model.config.schema import PATH_PREFIX
from neo_model.config.targets import TARGET, find_class, nested_references, nested_targets
from neo_model.utils import UserError

# What torch says of sizes that no memory holds, or none of its own numbers.
TOO_LARGE = re.compile(r"CPUAllocator: can't allocate|overflow(ed with sizes| when unpacking)", re.IGNORECASE)


def instantiate(node: DictConfig | dict, *, key: str = "configuration", **supplied: Any) -> Any:
    """Build what a node describes.

    Args:
        node: a node with ``_target_``, or a dictionary of such nodes.
        key: the node's key, for error messages.
        supplied: further arguments, such as ``num_classes``.

    Raises:
        UserError: a ``_target_`` is not one of our public classes, a text still holds a reference once all are
            followed, or a constructor refuses its arguments.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    for nested_key, target in nested_targets(key, plain):
        find_class(nested_key, target)
    for nested_key in nested_references(key, plain):
        # Hydra would follow it, after the check of what may be built: it was written with a backslash.
        remedy = "write the value itself, without ${"
        raise UserError(nested_key, "holds a reference that is left over when all are followed", remedy)
    if TARGET in plain:
        plain = _arguments(plain, find_class(key, plain[TARGET]))
    try:
        return hydra.utils.instantiate(plain, _convert_="all", **supplied)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        if isinstance(cause, OverflowError | MemoryError) or TOO_LARGE.search(str(cause)):
            said = str(cause).partition("\n")[0]
            raise UserError(key, f"has sizes that do not fit into memory ({said})", "make them smaller") from error
        if isinstance(cause, ValueError):
            raise UserError(key, str(cause), "change it") from error
        raise


def _arguments(node: dict, target: type) -> dict:
    """The node without the key that only serves as a common prefix of its paths, if its class has no use for it."""
    if PATH_PREFIX in inspect.signature(target).parameters:
        return node
    return {name: value for name, value in node.items() if name != PATH_PREFIX}
