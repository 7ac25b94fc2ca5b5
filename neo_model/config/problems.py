"""What is wrong with a configuration, in words: Hydra's errors, misspelt names, and several at once as one."""

import difflib
import re
from collections.abc import Iterable

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from neo_model.config import schema
from neo_model.utils import UserError

MAX_LISTED = 5
# Hydra's plugins that are not installed with this package, by the group and name that they add; and the extra.
EXTRAS = {
    "optuna": re.compile(r"hydra/sweeper/optuna|hydra/sweeper/sampler/\w+"),
    "launchers": re.compile(r"hydra/launcher/(joblib|submitit_local|submitit_slurm)"),
}
SIZE = r"\d+x\d+"


class UserErrors(UserError):
    """Several problems as one error on one line: how many, and the first ones in full.

    Args:
        problems: at least two.
    """

    def __init__(self, problems: list[UserError]) -> None:
        first, others = problems[0], [str(problem) for problem in problems[1:MAX_LISTED]]
        more = [f"and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        remedy = " | ".join([f"{first.remedy} (1 of {len(problems)} errors)", *others, *more])
        super().__init__(first.where, first.cause, remedy)
        self.problems = problems


def raise_all(problems: Iterable[UserError]) -> None:
    """Raise the problems, each once, as one ``UserError``, if there are any."""
    single = [part for problem in problems for part in getattr(problem, "problems", [problem])]
    unique = list({str(problem): problem for problem in single}.values())
    if unique:
        raise unique[0] if len(unique) == 1 else UserErrors(unique)


def unknown_name(name: str, known: Iterable[str], *, where: str, what: str, prefix: str = "") -> UserError:
    """The error for ``name``, with the nearest of the ``known`` names or else all of them.

    Args:
        name: what was given.
        known: what there is.
        where: the key at fault.
        what: the kind of thing that does not exist, for example "key".
        prefix: what to write before a suggested name.
    """
    known = sorted(option for option in known if not option.startswith("_"))
    near = _nearest_sizes(name, known) or difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        remedy = f"did you mean {' or '.join(prefix + option for option in near)}?"
    else:
        remedy = f"choose one of {', '.join(known)}" if known else "remove it"
    return UserError(where, f"there is no such {what}", remedy)


def _nearest_sizes(name: str, known: Iterable[str]) -> list[str]:
    """For a name like 1000x500, the two of the ``known`` sizes that are least different from it in width and height."""
    if not re.fullmatch(SIZE, name):
        return []
    width, height = map(int, name.split("x"))
    sizes = {size: tuple(map(int, size.split("x"))) for size in known if re.fullmatch(SIZE, size)}
    return sorted(sizes, key=lambda size: abs(sizes[size][0] - width) + abs(sizes[size][1] - height))[:2]


def unknown_key(
    key: str, config: DictConfig, *, groups: Iterable[str] = (), further_keys: Iterable[str] = ()
) -> UserError:
    """The error for a dotted key, or a group written with slashes, that the configuration does not have.

    Args:
        key: what was given.
        config: what there is.
        groups: names of the config groups.
        further_keys: top-level keys that exist elsewhere.
    """
    if "/" in key:
        return unknown_name(key, groups, where=key, what="group of choices")
    parent, _, name = key.rpartition(".")
    if name in schema.SUPPLIED:
        return UserError(key, schema.SUPPLIED[name], "leave it out")
    node = OmegaConf.select(config, parent) if parent else config
    if OmegaConf.is_dict(node):
        known = [*(str(key) for key in node if parent or key != "hydra"), *(() if parent else further_keys)]
        return unknown_name(name, known, where=key, what="key", prefix=f"{parent}." if parent else "")
    known = (name for name in _all_keys(config) if name.partition(".")[0] != "hydra")
    return unknown_name(key, known, where=key, what="key")


def _all_keys(config: DictConfig) -> list[str]:
    keys = []
    for name in config:
        node = config._get_node(name)
        keys.append(str(name))
        if OmegaConf.is_dict(node) and not node._is_none() and not node._is_missing():
            keys += [f"{name}.{key}" for key in _all_keys(node)]
    return keys


def from_hydra(error: Exception, config: DictConfig, groups: Iterable[str]) -> UserError:
    """Hydra's or OmegaConf's error in our form.

    Args:
        error: what composing raised.
        config: a configuration that composes, to suggest keys from.
        groups: names of the config groups.
    """
    if isinstance(error, OverrideParseException):
        remedy = "write key=value, and quote special characters: 'key=\"a, b\"'"
        return UserError(error.override, "is not understood", remedy)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        for extra, choices in EXTRAS.items():
            if choices.fullmatch(error.missing_cfg_file):
                return UserError(f"{group}={name}", f"needs the extra [{extra}]", f"pip install -e '.[{extra}]'")
        options = list(error.options or [])
        problem = unknown_name(name, options, where=f"{group}={name}", what="choice")
        remedy = f"{problem.remedy} (python train.py --help lists all)"
        if group == "data/resolution" and re.fullmatch(SIZE, name):
            width, height = map(int, name.split("x"))
            if width * 9 == height * 16:
                remedy = f"it is 16:9, write data.resolution.width={width} data.resolution.height={height}"
        return UserError(problem.where, problem.cause, remedy)
    text = " ".join(str(error).split())
    found = re.match(r"Could not (?:override|delete from config\.|append to config\.)[^']*'([^']+)'", text)
    if found and "already at" not in text:
        return unknown_key(found[1].split("@")[0], config, groups=groups)
    if "--multirun" in text:
        remedy = "add -m to run a job for each, or write a list as [a,b]"
        return UserError(text.split("'")[1], "gives several values", remedy)
    key = getattr(error, "full_key", None)
    return UserError(str(key) if key else "configuration", text.rstrip("."), "see python train.py --help")
