"""What a command line may change of Hydra itself: where runs go and which launcher and sweeper start them.

Everything else under ``hydra`` can name code to run (callbacks, logging factories), before any check of ours.
"""

import dataclasses
import re
from collections.abc import Iterator

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neo_model.config.compose import parse_overrides
from neo_model.config.problems import raise_all, unknown_name
from neo_model.config.secrets import secrets_in
from neo_model.config.targets import TARGET, nested_references, nested_targets
from neo_model.config.user_files import texts
from neo_model.utils import UserError
from neo_model.utils.errors import CONTROL_CHARACTERS

PERMITTED = re.compile(r"hydra(\.run\.dir|\.sweep\.(dir|subdir)|[./](launcher|sweeper)(\..*)?)")
# Hydra's own two, and those of the extras [optuna] and [launchers].
PLUGIN_TARGETS = re.compile(
    r"hydra\._internal\.core_plugins\.(basic_launcher\.BasicLauncher|basic_sweeper\.BasicSweeper)"
    r"|hydra_plugins\.hydra_optuna_sweeper\.optuna_sweeper\.OptunaSweeper"
    r"|hydra_plugins\.hydra_joblib_launcher\.joblib_launcher\.JoblibLauncher"
    r"|hydra_plugins\.hydra_submitit_launcher\.submitit_launcher\.(Local|Slurm)Launcher"
)
# Commands that submitit would write into the script for Slurm.
SHELL_KEYS = ("setup", "teardown", "additional_parameters", "python", "srun_args")
NESTED_TARGETS = re.compile(r"optuna\.samplers\.[A-Z]\w*")
PLUGIN_NODES = ("launcher", "sweeper")
# What submitit's own nodes refer to. Both are texts to Hydra, and a sweep writes out the first before it starts.
PLUGIN_REFERENCES = re.compile(r"\$\{hydra\.(sweep\.dir|job\.name)\}")
# Node, key and default of the places where plugins write, and read what they take for their own.
PLUGIN_PLACES = (
    ("sweeper", "storage", None),
    ("launcher", "temp_folder", None),
    ("launcher", "submitit_folder", "${hydra.sweep.dir}/.submitit/%j"),
)
# Optuna unpickles what others, such as Redis, answer.
SQL_STORAGE = re.compile(r"(sqlite|postgresql|mysql)(\+\w+)?://")
PICKLING_SAMPLER = re.compile("cma", re.IGNORECASE)  # keeps its state in the study, as a pickle
# All that differs from job to job in a name without slashes; other references may lead to anything in another job.
SUBDIR_REFERENCES = re.compile(
    r"\$\{hydra\.job\.num\}|\$\{sweep_job_folder:\$\{hydra\.job\.num\},\$\{hydra\.job\.override_dirname\}\}"
)
LOGGING_KEYS = {"version", "root", "disable_existing_loggers"}
FOLDER_KEYS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")


def is_hydra_override(override: str) -> bool:
    """Whether an override concerns Hydra itself."""
    return re.match(r"[+~]*hydra([./@=:]|$)", override) is not None


def permitted_overrides(overrides: list[str]) -> list[str]:
    """The overrides, if none of them reaches into Hydra where code could be named, or spells out a secret.

    Hydra writes them to a sweep's folder as they are, also those that a later one replaces.

    Raises:
        UserError: listing those that do, by their keys only: a value may be a secret.
    """
    remedy = "of Hydra only hydra.run.dir, hydra.sweep.dir, hydra/launcher and hydra/sweeper can be set"
    found = []
    for override in parse_overrides(overrides):
        if _reaches_into_hydra(override):
            key, package = override.key_or_group, override.package or ""
            if not PERMITTED.fullmatch(key) or package or TARGET in override.input_line:
                found.append(UserError(override.get_key_element().lstrip("+~"), "is refused", remedy))
        found += secrets_in(override.input_line, override.get_key_element().lstrip("+~"))
    raise_all(found)
    return overrides


def _reaches_into_hydra(override: Override) -> bool:
    key, package = override.key_or_group, override.package or ""
    return "hydra" in (re.split("[./]", key)[0], *package.split("."))


def check_composed_hydra(config: DictConfig) -> None:
    """Check Hydra's part of a composed configuration, which files of the user's may have changed as well.

    Raises:
        UserError: it has callbacks, log handlers or environment variables to set, names code outside Hydra and its
            plugins, has its sweeper change any of this in the jobs, or spells out a secret in a plugin's node or in
            the name of a folder, or a plugin does not know one of its keys.
    """
    remedy = "leave Hydra's callbacks, logging, environment, own files and plugins alone"
    refused = [UserError(key, "is refused", remedy) for key in dict.fromkeys(_refused(config.hydra))]
    raise_all(refused)
    raise_all([*_unknown_keys(config.hydra), *_secrets_in_plugins(config.hydra), *_problems_of_folders(config)])


def _unknown_keys(own: DictConfig) -> Iterator[UserError]:
    """An error for each key that a ``+`` has put where the plugin's own configuration has none."""
    for name in PLUGIN_NODES:
        kind = OmegaConf.get_type(own, name)
        known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else own[name]
        for key in own[name]:
            if key not in known:
                where = f"hydra.{name}.{key}"
                yield unknown_name(str(key), known, where=where, what="key", prefix=f"hydra.{name}.")


def _secrets_in_plugins(own: DictConfig) -> Iterator[UserError]:
    """An error for each secret spelt out in the plugins' nodes, which Hydra writes to a sweep's folder as they are."""
    plain = OmegaConf.to_container(own)
    for name in PLUGIN_NODES:
        yield from secrets_in(plain[name], f"hydra.{name}")


def check_plugin_places(config: DictConfig, overrides: list[Override]) -> None:
    """Check where plugins keep what they go on from: a search its study, launchers the pickles of their jobs.

    Args:
        config: a composed configuration, with Hydra's part.
        overrides: those of the command line.

    Raises:
        UserError: a place is not as by default, and not the command line has named it; or a study's is no SQL database
            or has its sampler read pickles from there.
    """
    plain = OmegaConf.to_container(config.hydra)
    named = {override.key_or_group for override in overrides if not override.is_delete()}
    for node, name, default in PLUGIN_PLACES:
        key = f"hydra.{node}.{name}"
        if plain[node].get(name) not in (None, default) and key not in named:
            raise UserError(key, "is set in a file", f"give {key}=... on the command line")
    storage = plain["sweeper"].get("storage")
    if storage is None:
        return
    if not (isinstance(storage, str) and SQL_STORAGE.match(storage)):
        remedy = "give sqlite:///FILE, postgresql://... or mysql://..."
        raise UserError("hydra.sweeper.storage", "is no database that studies may be kept in", remedy)
    if PICKLING_SAMPLER.search(str(plain["sweeper"].get("sampler"))):
        remedy = "choose another sampler, or leave the storage out"
        raise UserError("hydra.sweeper.sampler", "would unpickle what the study holds", remedy)


def _problems_of_folders(config: DictConfig) -> Iterator[UserError]:
    """An error for each folder with a secret in its name, spelt out or by reference, and for jobs outside a sweep."""
    subdir = SUBDIR_REFERENCES.sub("0", str(OmegaConf.to_container(config.hydra.sweep)["subdir"]))
    if subdir in ("", ".", "..") or "/" in subdir or "${" in subdir or CONTROL_CHARACTERS.search(subdir):
        remedy = "write a name, with no reference but ${hydra.job.num}"
        yield UserError("hydra.sweep.subdir", "is no single folder within the sweep's", remedy)
    config = config.copy()
    OmegaConf.set_readonly(config.hydra, False)
    config.hydra.job.num, config.hydra.job.id = 0, "0"  # which Hydra fills in for each job
    for key in FOLDER_KEYS:
        try:
            yield from secrets_in(OmegaConf.select(config, key), key)
        except OmegaConfBaseException:
            continue  # whoever makes the folder reports it


def _refused(own: DictConfig) -> Iterator[str]:
    plain = OmegaConf.to_container(own)
    if plain.get("callbacks"):
        yield "hydra.callbacks"
    for name in ("job_logging", "hydra_logging"):
        logging = plain.get(name) or {}
        if not isinstance(logging, dict) or logging.keys() - LOGGING_KEYS or logging.get("root"):
            yield f"hydra.{name}"
    job = plain.get("job")
    if not isinstance(job, dict) or job.get("env_set"):
        yield "hydra.job.env_set"
    elif job.get("chdir"):
        yield "hydra.job.chdir"
    elif "${" in str(job.get("name")):  # which goes into the script for Slurm as it is then
        yield "hydra.job.name"
    if plain.get("output_subdir") is not None:  # where Hydra writes a config.yaml, over that of any run
        yield "hydra.output_subdir"
    for name in PLUGIN_NODES:
        yield from _refused_in_plugin(f"hydra.{name}", own, name)


def _refused_in_plugin(key: str, own: DictConfig, name: str) -> Iterator[str]:
    """What is wrong with the launcher's or the sweeper's node, seen with all references followed.

    Hydra follows them once more when it starts a sweep, by when ``${hydra.mode}``, say, is another one, so that what is
    seen here holds only without references.
    """
    yield from (place for place, text in texts(key, OmegaConf.to_container(own)[name]) if _may_change(place, text))
    try:
        node = own[name]
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_dict(node) else None
    except OmegaConfBaseException:
        plain = None
    if plain is None:
        yield key
        return
    for nested, target in nested_targets(key, plain):
        permitted = PLUGIN_TARGETS if nested == key else NESTED_TARGETS
        if not (isinstance(target, str) and permitted.fullmatch(target)):
            yield f"{nested}.{TARGET}"
    yield from nested_references(key, plain)  # which Hydra would follow after this look
    if plain.get("custom_search_space"):
        yield f"{key}.custom_search_space"  # a function for Optuna's sweeper to import and call
    if plain.get("search_space"):
        yield f"{key}.search_space"  # what `params` was called before; it becomes overrides unchecked
    yield from (f"{key}.{name}" for name in SHELL_KEYS if plain.get(name))
    # After a line's end any other text is a command in the script for Slurm as well.
    controlling = (place for place, text in texts(key, plain) if CONTROL_CHARACTERS.search(text))
    yield from (f"a control character in {place}" for place in controlling)
    params = plain.get("params") or {}
    for param, value in params.items() if isinstance(params, dict) else ():
        # These become overrides of the jobs, past the check of the command line.
        if any(map(_reaches_into_hydra, parse_overrides([f"{param}={value}"]))):
            yield f"{key}.params.{param}"


def _may_change(key: str, text: str) -> bool:
    """Whether a text has references that may lead to something else later."""
    return "${" in (text if key.endswith(TARGET) else PLUGIN_REFERENCES.sub("", text))
