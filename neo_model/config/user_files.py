"""A look at a user's YAML files before OmegaConf copies every alias in them out."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from neo_model.utils import UserError

# The largest composed configuration of ours has some 150 nodes.
MOST_NODES = 10_000
MOST_BYTES = 1_000_000
STANDARD_TAG = "tag:yaml.org,2002:"
STANDARD_TYPES = {"null", "bool", "int", "float", "str", "seq", "map", "merge", "value"}
DEFAULTS = "defaults"  # the list of further files to read
# Out of the folder, by the system's root too; or whatever a reference stands for by the time that Hydra reads the list.
LEADS_ELSEWHERE = re.compile(r"\.\.|//|\$\{")


class _Loader(get_yaml_loader()):
    """Reads as OmegaConf does; a value that is not of its type is an error that knows its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # Python writes no more than 4,300 digits, in an error's line either
        except (ValueError, LookupError) as error:
            kind = node.tag.removeprefix(STANDARD_TAG)
            raise yaml.constructor.ConstructorError(None, None, f"no usable {kind}", node.start_mark) from error
        return value

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "no usable map", node.start_mark)
        return super().construct_mapping(node, deep)


def check_user_files(folder: Path) -> None:
    """Refuse YAML files below a folder that are no configurations.

    Raises:
        UserError: one is not YAML, names types of Python, expands to more than ``MOST_NODES`` entries, or has a list of
            defaults that may lead out of the folder.
    """
    for path in sorted(_yaml_files(folder)):
        _check_file(path)


def _yaml_files(folder: Path) -> Iterator[Path]:
    """All YAML files below a folder, those behind links too, as Hydra finds them; each folder once."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in names if name.endswith((".yaml", ".yml")))


def _check_file(path: Path) -> None:
    remedy = "give a plain configuration, as in conf/"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(path, f"is larger than {MOST_BYTES:,} bytes", remedy)
        text = path.read_bytes()
        root = yaml.compose(text, Loader=_Loader)
        size = 0 if root is None else _expanded_size(path, root, {})
        if size > MOST_NODES:
            raise UserError(path, f"expands to {size:,} entries through its aliases", remedy)
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise not_yaml(error, path) from error
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check its permissions") from error
    except RecursionError as error:
        raise UserError(path, "is nested too deeply or refers to itself", remedy) from error
    if isinstance(content, dict):
        _check_defaults(path, content.get(DEFAULTS))


def _check_defaults(path: Path, defaults: Any) -> None:
    for _, text in texts(DEFAULTS, defaults):
        if LEADS_ELSEWHERE.search(text):
            cause = f"has {text!r} among its defaults, which may lead out of the folder"
            raise UserError(path, cause, "name files of the folder or of conf/")


def texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a plain value, with its key; the name of a key is a text of its node."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield key, str(name)
            yield from texts(f"{key}.{name}", entry)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from texts(f"{key}[{index}]", entry)
    elif isinstance(value, str):
        yield key, value


def _expanded_size(path: Path, node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many nodes there are once every alias is a copy."""
    if id(node) in sizes:
        return sizes[id(node)]
    kind = node.tag.removeprefix(STANDARD_TAG)
    if kind not in STANDARD_TYPES:
        raise UserError(path, f"asks for an object of type {kind!r}", "use plain values only")
    children = []
    if isinstance(node, yaml.MappingNode):
        children = [entry for pair in node.value for entry in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    sizes[id(node)] = 1 + sum(_expanded_size(path, child, sizes) for child in children)
    return sizes[id(node)]


def not_yaml(error: yaml.YAMLError, path: Path | None = None) -> UserError:
    """The parser's error in our form."""
    mark = getattr(error, "problem_mark", None)
    where = path or (mark.name if mark else "configuration")
    place = f" in line {mark.line + 1}" if mark else ""
    return UserError(where, f"is not YAML{place} ({getattr(error, 'problem', error)})", "correct the file")
