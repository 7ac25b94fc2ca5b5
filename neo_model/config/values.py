"""Whether a value of a configuration fits a type hint, and if not, why in words."""

import inspect
import shlex
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from neo_model.utils import Bounds
from neo_model.utils.quoting import quoted

NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a dictionary",
    Path: "a path",
    None: "null",
    types.NoneType: "null",
}


def mismatch(value: Any, hint: Any) -> tuple[str, str] | None:
    """Why ``value`` does not fit ``hint``: (cause, remedy), or None when it does.

    Args:
        value: a plain value: number, text, None, list or dictionary.
        hint: int, float, bool, str, Path, None, Any, Annotated with ``Bounds``, Literal, unions, list, tuple, dict.
    """
    if fits(value, hint):
        return None
    shown, remedy = "null" if value is None else repr(value), f"give {describe(hint)}"
    if _plain_fits(value, int) and fits(str(value), hint):
        remedy = f"write ./{value} for a path, {shlex.quote(quoted(str(value)))} for any other text"
    return f"{shown} is not {describe(hint)}", remedy


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value fits a type hint; whole numbers fit float, True and False only bool."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return True
    if origin is Annotated:
        bounds = [entry for entry in arguments[1:] if isinstance(entry, Bounds)]
        return fits(value, arguments[0]) and all(bound.contains(value) for bound in bounds)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin in (list, tuple, dict):
        return _container_fits(value, origin, arguments)
    return _plain_fits(value, hint)


def _plain_fits(value: Any, hint: Any) -> bool:
    if hint is None or hint is types.NoneType:
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63  # as libraries hold them
    if hint in (str, Path):
        return isinstance(value, str) and "\0" not in value  # which no system takes in a path
    return isinstance(value, hint)


def _container_fits(value: Any, origin: type, arguments: tuple) -> bool:
    if origin is dict:
        return isinstance(value, dict) and all(fits(entry, arguments[1]) for entry in value.values())
    if not isinstance(value, list):
        return False
    if origin is tuple and Ellipsis not in arguments:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return all(fits(entry, arguments[0]) for entry in value)


def describe(hint: Any) -> str:
    """The values that a type hint stands for, in words; for example "a whole number between 1 and 2147483647"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [str(entry) for entry in arguments[1:] if isinstance(entry, Bounds)]
        return " ".join([describe(arguments[0]), *ranges])
    if origin is Literal:
        return " or ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        described = dict.fromkeys(describe(argument) for argument in arguments)
        return (", or " if any("," in choice for choice in described) else " or ").join(described)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}, each {describe(arguments[0])}"
    if origin in (list, tuple):
        return f"a list, each entry {describe(arguments[0])}"
    if origin is dict:
        return f"a dictionary, each value {describe(arguments[1])}"
    return NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def object_class(hint: Any) -> type | None:
    """The class of object that a hint asks for, when it is one of ours or torch's instead of a plain value."""
    for candidate in (hint, *typing.get_args(hint)):
        if inspect.isclass(candidate) and candidate not in PLAIN and typing.get_origin(candidate) is None:
            return candidate
    return None


PLAIN = {int, float, bool, str, list, dict, tuple, Path, types.NoneType}
