"""A look at a user's YAML files before OmegaConf copies every alias in them out."""

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from neo_model.utils import UserError

# The largest composed configuration of ours has some 150 nodes.
MOST_NODES = 10_000
MOST_BYTES = 1_000_000
STANDARD_TAG = "tag:yaml.org,2002:"
STANDARD_TYPES = {"null", "bool", "int", "float", "str", "seq", "map", "merge", "timestamp", "value"}


def check_user_files(folder: Path) -> None:
    """Refuse YAML files below a folder that are no configurations.

    Raises:
        UserError: one is not YAML, names types of Python, or expands to more than ``MOST_NODES`` entries.
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
        root = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
        size = 0 if root is None else _expanded_size(path, root, {})
    except yaml.YAMLError as error:
        raise not_yaml(error, path) from error
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "check its permissions") from error
    except RecursionError as error:
        raise UserError(path, "is nested too deeply or refers to itself", remedy) from error
    if size > MOST_NODES:
        raise UserError(path, f"expands to {size:,} entries through its aliases", remedy)


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
