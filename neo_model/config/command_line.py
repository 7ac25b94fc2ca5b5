"""The commands train.py and eval.py: read the command line, check everything, make the run's folder, run."""

import argparse
import io
import os
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neo_model.config.compose import (
    CONF,
    VERSION_BASE,
    compose_collecting,
    is_launching,
    parse_overrides,
    without_hydra,
)
from neo_model.config.hydra_guard import check_composed_hydra, is_hydra_override, permitted_overrides
from neo_model.config.manual import manual
from neo_model.config.problems import raise_all
from neo_model.config.recipe import tell_what_recipes_keep
from neo_model.config.run_dir import check_unused, chosen_folder, new_folder
from neo_model.config.schema import EVALUATION_SETTINGS
from neo_model.config.secrets import filter_warnings
from neo_model.utils import UserError
from neo_model.utils.collecting import importing
from neo_model.utils.files import is_there
from neo_model.utils.messages import tell
from neo_model.utils.secrets import redacted
from neo_model.utils.signals import ignoring

USER_ERROR, INTERRUPTED = 2, 130
AUTO = "auto"
HYDRA_COMMANDS = ("hydra_help", "cfg", "info", "shell_completion")  # options with which Hydra prints and nothing runs


def main(job: str, arguments: list[str] | None = None) -> int:
    """Run ``train`` or ``eval`` with command-line arguments and return the exit code.

    User errors are printed as one line and give 2, an interruption gives 128 plus the signal's number; an error of
    ours passes through with its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    filter_warnings()
    try:
        options = _parse(arguments)
        if options.help:
            print(manual(job), end="")
            return 0
        if job != "train":
            return _evaluate(options)
        with ignoring("SIGUSR1"):  # which a run takes for a wish to save: outside of one it must not end the process
            return _train(options)
    except UserError as error:
        if "debug=true" in (argument.lower() for argument in arguments):
            tell(redacted(traceback.format_exc()).rstrip())
        tell(f"error: {redacted(str(error))}")
        return USER_ERROR
    except KeyboardInterrupt as interruption:
        tell(f"stopped: {str(interruption) or 'interrupted'}")
        return getattr(interruption, "exit_code", INTERRUPTED)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = get_args_parser()
    parser.error = _refuse_option
    options = parser.parse_intermixed_args(arguments)
    options.arguments = arguments
    for name in ("config_path", "config_name", "experimental_rerun"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}", "is not used here", "see --help")
    commands = [name.replace("_", "-") for name in ("run", "multirun", *HYDRA_COMMANDS) if getattr(options, name)]
    if len(commands) > 1:
        raise UserError(f"--{commands[1]}", f"does not go with --{commands[0]}", "give one of them")
    if (options.resolve or options.package) and not options.cfg:
        option = "--resolve" if options.resolve else "--package"
        raise UserError(option, "is for --cfg", "add --cfg job, or leave it out")
    options.overrides = permitted_overrides(options.overrides)
    return options


def _refuse_option(message: str) -> None:
    raise UserError("command line", message, "keys are written KEY=VALUE, without dashes; see --help")


def _train(options: argparse.Namespace) -> int:
    from neo_model.config.sweep import run_sweep
    from neo_model.config.validate import check_training

    if options.multirun:
        return run_sweep(options.overrides, options.config_dir)
    for override in filter(is_launching, options.overrides):
        if not is_hydra_override(override):
            raise UserError(override.partition("=")[0], "is for sweeps", "add -m, or leave it out")
    resumed = _value_of("resume", options.overrides)
    if resumed not in (None, AUTO):
        return _resume(options, Path(str(resumed)))
    composed, found = compose_collecting("train", options.overrides, config_dir=options.config_dir)
    check_composed_hydra(composed)
    if _is_hydra_command(options):
        raise_all(found)
        if options.cfg:
            tell_what_recipes_keep([(options.overrides, composed)], options.config_dir)
        return _hydra_command("train", options.arguments)
    config = without_hydra(composed)
    folder = _chosen_run_dir(composed, options.overrides)
    if resumed == AUTO:
        config.resume = None
        if folder is None:
            found.append(UserError("resume", "auto needs a folder that stays the same", "add hydra.run.dir=DIR"))
    elif folder is not None:
        check_unused(folder)
    if config.resume is not None:
        found.append(UserError("resume", "is set in a file", "give resume=RUN_DIR on the command line"))
    goes_on = resumed == AUTO and folder is not None and is_there(folder)  # with weights of its own
    check_training(config, found, loads_weights=not goes_on)
    tell_what_recipes_keep([(options.overrides, composed)], options.config_dir)
    if resumed == AUTO:
        return _start_or_go_on(config, folder)
    from neo_model.config.jobs import train_job

    train_job(config, lambda: _run_dir(composed, folder))
    return 0


def _start_or_go_on(config: DictConfig, folder: Path) -> int:
    """resume=auto: the same command line for the first start and for every one after it."""
    from neo_model.config.jobs import train_job
    from neo_model.config.restore import refuse_another_training
    from neo_model.engine.checkpoint_folder import CheckpointFolder

    checkpoints = CheckpointFolder(folder)
    goes_on = not checkpoints.is_empty()
    if goes_on:
        refuse_another_training(folder, checkpoints.newest().content, config)
    train_job(config, lambda: chosen_folder(folder), resume=goes_on)
    return 0


def _resume(options: argparse.Namespace, run_dir: Path) -> int:
    """Go on in the run's own folder."""
    from neo_model.config.restore import resumed_config
    from neo_model.config.validate import preflight

    own = [override for override in options.overrides if is_hydra_override(override)]
    if own:
        raise UserError(own[0], "does not go with resume", f"leave it out, the run stays in {run_dir}")
    if options.config_dir:
        raise UserError("--config-dir", "does not go with resume", "leave it out, the run brings its configuration")
    overrides = [override for override in options.overrides if _key(override) != "resume"]
    config = resumed_config(run_dir, overrides)
    if _is_hydra_command(options):
        return _print_saved(config, options)
    preflight(config, drawing=_name_data(overrides))
    from neo_model.config.jobs import train_job

    train_job(config, lambda: run_dir, resume=True)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from neo_model.config.restore import restore_training_config
    from neo_model.config.validate import preflight, validate_evaluation

    if options.multirun:
        raise UserError("--multirun", "is for train.py", "run eval.py once for each checkpoint")
    if options.config_dir:
        raise UserError("--config-dir", "is for train.py", "the checkpoint brings its configuration")
    own = [override for override in options.overrides if _is_evaluation_override(override)]
    others = [override for override in options.overrides if override not in own]
    composed, found = compose_collecting("eval", own)
    check_composed_hydra(composed)
    if _is_hydra_command(options) and options.cfg != "job":
        if others:
            raise UserError(others[0], "changes the checkpoint's configuration", "see that with --cfg job")
        raise_all(found)
        return _hydra_command("eval", options.arguments)
    settings = without_hydra(composed)
    validate_evaluation(settings, found)
    with importing():
        from neo_model.engine.checkpoint import read_checkpoint
    checkpoint = read_checkpoint(settings.ckpt)
    config = restore_training_config(checkpoint["config"], others, further_keys=EVALUATION_SETTINGS, training=False)
    if options.cfg:
        return _print_saved(OmegaConf.merge(OmegaConf.to_container(config), settings), options)
    folder = _chosen_run_dir(composed, own)
    preflight(config, training=config.overfit > 0, drawing=_name_data(others))
    from neo_model.config.evaluation_job import eval_job

    eval_job(checkpoint, config, settings, lambda: _run_dir(composed, folder))
    return 0


def _is_evaluation_override(override: str) -> bool:
    return is_hydra_override(override) or _key(override) in EVALUATION_SETTINGS


def _name_data(overrides: list[str]) -> bool:
    """Whether the user has named the data or their folder, beside what a checkpoint says."""
    return any(_key(override) in ("data", "data.root") for override in overrides)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _value_of(key: str, overrides: list[str]) -> Any:
    """What the overrides give for the key of a folder, None if they do not."""
    values = [override.value() for override in parse_overrides(overrides) if override.key_or_group == key]
    if "" in values:
        raise UserError(key, "is empty", f"write {key}=DIR")
    return values[-1] if values else None


def _chosen_run_dir(composed: DictConfig, overrides: list[str]) -> Path | None:
    """The folder that the overrides name, None if they do not; it may refer to other keys, as in runs/${optim.lr}."""
    if _value_of("hydra.run.dir", overrides) is None:
        return None
    try:
        return Path(composed.hydra.run.dir)
    except OmegaConfBaseException as error:
        cause = str(error).splitlines()[0]
        raise UserError("hydra.run.dir", cause, "refer to keys of the configuration, or write DIR out") from error


def _run_dir(composed: DictConfig, folder: Path | None) -> Path:
    """The folder that the user named, or a new one beside the earlier runs."""
    if folder is not None:
        return chosen_folder(folder)
    return new_folder(Path(composed.hydra.run.dir).parent)


def _is_hydra_command(options: argparse.Namespace) -> bool:
    return any(getattr(options, name) for name in HYDRA_COMMANDS)


def _print_saved(config: DictConfig, options: argparse.Namespace) -> int:
    """--cfg job for a configuration that Hydra has not composed: that of a checkpoint, with the command line on top."""
    if options.cfg != "job" or options.package:
        raise UserError("command line", "only --cfg job prints a saved run's configuration", "give no other option")
    print(redacted(OmegaConf.to_yaml(config, resolve=options.resolve)), end="")
    return 0


def _hydra_command(job: str, arguments: list[str]) -> int:
    """--cfg, --info and the like: Hydra itself reads the command line, prints and is done; no secret is shown."""
    import hydra

    sys.argv = [sys.argv[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints what went wrong and exits
    printed, code = io.StringIO(), 0
    try:
        with redirect_stdout(printed):
            hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name=job)(lambda config: None)()
    except OmegaConfBaseException as error:
        remedy = "correct it, or set the environment variable it names"
        raise UserError(str(error.full_key or "configuration"), str(error).splitlines()[0], remedy) from error
    except SystemExit as done:  # of --hydra-help
        code = done.code
    print(redacted(printed.getvalue()), end="")
    return code
