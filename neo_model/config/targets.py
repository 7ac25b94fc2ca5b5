"""Which classes a configuration may name, decided before anything is imported."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from neo_model.config.problems import unknown_name
from neo_model.config.schema import LOGGER_PACKAGE, TRAINING_NODES
from neo_model.utils import UserError
from neo_model.utils.collecting import importing

TARGET = "_target_"
ALLOWED_PACKAGES = frozenset({*TRAINING_NODES.values(), LOGGER_PACKAGE})


def find_class(key: str, target: Any, packages: frozenset[str] = ALLOWED_PACKAGES) -> type:
    """The class that ``target`` names.

    Only "PACKAGE.Name" with a public class of one of the ``packages`` will do: a longer dotted path could walk
    through a module of ours to anything that it imports.

    Raises:
        UserError: it is not such a name; nothing has been imported unless the package is allowed.
    """
    package, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if package not in packages:
        allowed = " or ".join(f"{package}.NAME" for package in sorted(packages))
        raise UserError(f"{key}.{TARGET}", f"{target!r} is not allowed here", f"use {allowed}")
    with importing():
        module = importlib.import_module(package)
    classes = [public for public in module.__all__ if public[:1].isupper()]
    found = getattr(module, name) if name in classes else None
    if not inspect.isclass(found):
        raise unknown_name(name, classes, where=f"{key}.{TARGET}", what=f"class in {package}")
    return found


def nested_targets(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every ``_target_`` inside a plain value, with the key of its node."""
    if isinstance(value, dict):
        if TARGET in value:
            yield key, value[TARGET]
        for name, entry in value.items():
            yield from nested_targets(f"{key}.{name}", entry)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from nested_targets(f"{key}[{index}]", entry)


def nested_references(key: str, value: Any) -> Iterator[str]:
    """The key of every text inside a plain value that holds a reference, names in dictionaries included."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from nested_references(key, name)
            yield from nested_references(f"{key}.{name}", entry)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from nested_references(f"{key}[{index}]", entry)
    elif isinstance(value, str) and "${" in value:
        yield key
