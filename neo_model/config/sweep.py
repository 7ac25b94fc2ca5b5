"""python train.py -m: many jobs, all checked before the first one starts, none stopped by another's failure."""

import fcntl
import gc
import itertools
import json
import os
import shlex
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from neo_model.config.compose import (
    CONF,
    ROOT,
    VERSION_BASE,
    CompositionError,
    compose_collecting,
    is_launching,
    parse_overrides,
    set_environment,
    without_hydra,
)
from neo_model.config.hydra_guard import check_composed_hydra
from neo_model.config.problems import raise_all
from neo_model.config.recipe import tell_what_recipes_keep
from neo_model.config.run_dir import chosen_folder, new_folder
from neo_model.config.secrets import redacted
from neo_model.config.sweep_folders import earlier_attempt, unused_folder
from neo_model.config.targets import TARGET
from neo_model.config.validate import check_training, validate_training
from neo_model.config.values import mismatch
from neo_model.config.zipping import KEY, split_jobs, zipping
from neo_model.engine.job_device import remember_devices, take_device
from neo_model.engine.run_lock import training_alone
from neo_model.reports.sweep import write_sweep_report
from neo_model.reports.sweep_jobs import FAILED, FINISHED, INTERRUPTED, RESULT_FILE, RUNNING, SweepJob, read_result
from neo_model.reports.sweep_tables import terminal_text
from neo_model.utils import UserError
from neo_model.utils.files import telling_of_refusal, write_whole
from neo_model.utils.messages import tell
from neo_model.utils.quoting import quoted
from neo_model.utils.signals import raise_interruption_before

SWEEP_SETTINGS = {"skip_existing": bool, "zip": list[str]}  # the node `sweep`
REPORT_LOCK = ".report.lock"
COMMAND_ID = "NEO_MODEL_SWEEP_COMMAND"  # in the environment of every job: which command has started it
# Launchers that start several jobs on this machine, which share its GPUs; Slurm gives each job its own.
BESIDE_EACH_OTHER = (
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
)


def run_sweep(overrides: list[str], config_dir: str | None) -> int:
    """Run a job for each combination of the overrides' values.

    Returns:
        0 if all its jobs finished or had finished, 2 if all that failed failed on user errors, else 1.

    Raises:
        UserError: a combination is not valid, the folder does not suit, or another sweep runs in it; none has started.
    """
    parsed = parse_overrides(overrides)
    swept = [override.key_or_group for override in parsed if override.is_sweep_override()]
    composed = _check_jobs(overrides, config_dir)
    folder = Path(composed.hydra.sweep.dir)
    if not any(override.key_or_group == "hydra.sweep.dir" for override in parsed):
        if composed.sweep.skip_existing:
            cause = "finds no job in a sweep's new folder"
            raise UserError("sweep.skip_existing", cause, "add hydra.sweep.dir=DIR, the earlier sweep's folder")
        folder = new_folder(folder.parent)
    elif any(folder.glob(f"*/{RESULT_FILE}")) and not composed.sweep.skip_existing:
        remedy = "add sweep.skip_existing=true to run what is missing, or choose another hydra.sweep.dir"
        raise UserError(str(folder), "already holds a sweep", remedy)
    chosen_folder(folder)
    fixed = [override.key_or_group for override in parsed if override.key_or_group not in swept]
    command_id = str(uuid.uuid4())
    own = [f"hydra.sweep.dir={quoted(str(folder))}", f"hydra.job.config.override_dirname.exclude_keys={_list(fixed)}"]
    own.append(f"+hydra.job.env_set.{COMMAND_ID}={command_id}")
    kept = [text for text in overrides if not text.startswith("hydra.sweep.dir=")]
    arguments = ["--multirun", *(["--config-dir", config_dir] if config_dir else []), *kept, *own]
    set_environment()
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")  # on its way to 2.0, which is Optuna's business
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra prints what went wrong and exits
    remember_devices()
    with training_alone(folder, key="hydra.sweep.dir"):
        before, sys.argv = sys.argv, [sys.argv[0], *arguments]
        try:
            zipped = zipping(list(composed.sweep.zip))
            with zipped, _telling_of_plugins(folder, command_id), _telling_of_refusals_in(folder):
                hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name="train")(run_job)()
        finally:
            sys.argv = before
            ended = _report(folder) if any(folder.glob(f"*/{RESULT_FILE}")) else []
            if ended:
                print("", terminal_text(ended, folder), sep="\n")
    return _exit_code([job for job in ended if job.command_id == command_id])


def _check_jobs(overrides: list[str], config_dir: str | None) -> DictConfig:
    """Compose and check every job that Hydra's own sweeper will start; for a search, each combination of choices."""
    parsed = parse_overrides(overrides)
    own = [override.input_line for override in parsed if override.key_or_group.startswith("hydra")]
    # What Hydra itself starts from; of overrides that do not fit the jobs tell.
    start = [override.input_line for override in parsed if not override.is_sweep_override()]
    sweeper, _ = compose_collecting("train", start, config_dir=config_dir)
    check_composed_hydra(sweeper)
    raise_all(_check_settings(sweeper.sweep))
    zipped = list(sweeper.sweep.zip)
    params = parse_overrides([f"{key}={value}" for key, value in (sweeper.hydra.sweeper.get("params") or {}).items()])
    shared = [*params, *(override for override in parsed if override.input_line not in own)]
    if sweeper.hydra.sweeper[TARGET].endswith(".BasicSweeper"):
        jobs = [own + job for job in split_jobs(shared, zipped)]
    else:
        if zipped:
            raise UserError(KEY, "does not go with a search", "leave it out")
        jobs = [own + job for job in _searched_jobs(shared, config_dir)]
    composed_jobs = [(job, *compose_collecting("train", job, config_dir=config_dir)) for job in jobs]
    for _, composed, _ in composed_jobs:
        check_composed_hydra(composed)
    found = []
    for _, composed, problems in composed_jobs:
        config = without_hydra(composed)
        try:
            if config.get("resume"):
                problems.append(UserError("resume", "does not go with -m", "resume one run at a time"))
            check_training(config, problems)
        except UserError as error:
            found.append(error)
    raise_all(found)
    tell_what_recipes_keep([(job, composed) for job, composed, _ in composed_jobs], config_dir)
    return composed


def _check_settings(sweep: DictConfig) -> list[UserError]:
    plain = OmegaConf.to_container(sweep)
    problems = {key: mismatch(plain.get(key), hint) for key, hint in SWEEP_SETTINGS.items()}
    return [UserError(f"sweep.{key}", *problem) for key, problem in problems.items() if problem]


def _searched_jobs(overrides: list[Override], config_dir: str | None) -> Iterator[list[str]]:
    """The overrides of jobs in which a search takes every combination of the files that it may choose."""
    # Like Optuna: what has one value comes last, and wins over a choice of the same key.
    last = {override.get_key_element(): override for override in sorted(overrides, key=_has_one_value)}
    lists = [[f"{key}={value}" for value in _values(override, config_dir)] for key, override in last.items()]
    return map(list, itertools.product(*lists))


def _has_one_value(override: Override) -> bool:
    return not override.is_sweep_override()


def _values(override: Override, config_dir: str | None) -> list[str]:
    """All that a search may take if those are files, which may hold anything; else one, to see whether it fits."""
    folders = [CONF, ROOT, *([Path(config_dir)] if config_dir else [])]
    if override.is_choice_sweep() and any((folder / override.key_or_group).is_dir() for folder in folders):
        return list(override.sweep_string_iterator())
    if override.is_interval_sweep():
        return [str(override.value().start)]
    if override.is_sweep_override():
        return [next(override.sweep_string_iterator())]
    return [override.get_value_element_as_str()]


def run_job(config: DictConfig) -> float | None:
    """One job of a sweep, in a folder that no other job has used; the sweep's report is made anew when it ends.

    Returns:
        its AP, for sweepers that search; None if it failed, so that the other jobs still run.
    """
    own = HydraConfig.get()
    run_dir = Path(own.runtime.output_dir)
    config, skip = without_hydra(config), config.sweep.skip_existing
    overrides = [redacted(text) for text in own.overrides.task if not is_launching(text)]
    folders = [f"--config-dir={source.path}" for source in own.runtime.config_sources if source.provider == "command-line"]
    command = shlex.join(["python", "train.py", *folders, *overrides])
    if own.launcher[TARGET] in BESIDE_EACH_OTHER:
        take_device(run_dir.parent)
    mark = {"command_id": os.environ[COMMAND_ID]}
    result = {"job": own.job.num, "overrides": overrides, "command": command} | mark
    result |= {"status": RUNNING, "AP": None, "error": None, "user_error": False, "latency_ms": None, "seconds": None}
    attempt = earlier_attempt(run_dir, overrides) if skip else None
    run_dir, earlier = attempt or (unused_folder(run_dir), {})
    if earlier.get("status") == FINISHED:
        tell(f"\njob {run_dir.name}: is there already")
        _write(run_dir, earlier | mark)
        return earlier["AP"]
    result["folder"] = run_dir.name
    tell(f"\njob {run_dir.name}")
    knows_time = earlier.get("seconds", 0.0) is not None  # an attempt that was killed has left none
    earlier, started = {"seconds": 0.0} | earlier, time.monotonic()
    _write(run_dir, result)
    try:
        validate_training(config)
        result |= _train(config, run_dir) | {"status": FINISHED}
    except UserError as error:
        result |= {"status": FAILED, "error": redacted(str(error)), "user_error": True}
        tell(f"error: {result['error']}")
    except KeyboardInterrupt:
        result["status"] = INTERRUPTED
        raise
    except Exception as error:  # a crash of one job must not take the others with it; it is shown and tabled
        if isinstance(error, CompositionError):  # it may be what became of an interruption
            result["status"] = INTERRUPTED
            raise_interruption_before(error)
        result |= {"status": FAILED, "error": redacted(traceback.format_exception_only(error)[-1].strip())}
        tell(redacted(traceback.format_exc()).rstrip())
        raise_interruption_before(error)
    finally:
        result["seconds"] = time.monotonic() - started + earlier["seconds"] if knows_time else None
        _write(run_dir, result)
        _free_memory()
        if result["status"] != INTERRUPTED:  # then it is time to go: the sweep's own end makes the report
            _report(run_dir.parent)
    return result["AP"]


def _train(config: DictConfig, run_dir: Path) -> dict:
    """Train, or go on where an earlier attempt stopped; its AP and, where it can be measured, its model's latency."""
    from neo_model.config import jobs
    from neo_model.config.restore import refuse_another_training
    from neo_model.engine.checkpoint_folder import CheckpointFolder
    from neo_model.engine.hardware import forget_memory_peak

    checkpoints = CheckpointFolder(run_dir)
    goes_on = not checkpoints.is_empty()
    if goes_on:
        refuse_another_training(run_dir, checkpoints.newest().content, config)
    forget_memory_peak()
    best = jobs.train_job(config, lambda: run_dir, resume=goes_on)
    latency = None
    try:
        latency = jobs.latency_of(config, checkpoints.best)
    except Exception as error:  # whatever keeps the model from being timed, it is trained
        said = error if isinstance(error, UserError) else traceback.format_exception_only(error)[-1].strip()
        tell(f"warning: {run_dir.name}: its latency is not known: {redacted(str(said))}")
    return {"AP": best, "latency_ms": latency}


def _write(run_dir: Path, result: dict) -> None:
    """What came of a job; a disk that refuses this much will end the training with its own words."""
    try:
        write_whole(run_dir / RESULT_FILE, json.dumps(result) + "\n")
    except UserError as error:
        tell(f"warning: {error}")


def _report(folder: Path) -> list[SweepJob]:
    """Tables and picture so far; that they cannot be written is no reason to stop training."""
    try:
        with _one_at_a_time(folder):
            return write_sweep_report(folder)
    except UserError as error:
        tell(f"warning: {error}")
        return []


@contextmanager
def _telling_of_plugins(folder: Path, command_id: str) -> Iterator[None]:
    """Turn what the sweeper or launcher raises before the command's first job has started into a ``UserError``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise_interruption_before(error)
        in_job = any(frame.f_code is run_job.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))
        # A job's process sends its traceback as text.
        in_job |= "Traceback (most recent call last)" in f"{error} {error.__cause__}"
        results = (read_result(path.parent) for path in folder.glob(f"*/{RESULT_FILE}"))
        if in_job or any(result.get("command_id") == command_id for result in results):
            raise
        # Hydra's own error only says what it was about to call.
        said = error.__cause__ if isinstance(error, CompositionError) and error.__cause__ else error
        cause = next(iter(str(said).strip().splitlines()), type(said).__name__)
        remedy = "correct its keys, or leave them out (debug=true shows where it was raised)"
        raise UserError("hydra.sweeper or hydra.launcher", cause, remedy) from error


@contextmanager
def _telling_of_refusals_in(folder: Path) -> Iterator[None]:
    """Turn a disk's refusal of a folder or file that Hydra makes for its jobs into a ``UserError``."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not Path(error.filename).absolute().is_relative_to(folder.absolute()):
            raise
        with telling_of_refusal(error.filename):
            raise


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Of jobs that end together each reports after the other, so that the last report holds all of them."""
    with telling_of_refusal(folder / REPORT_LOCK), (folder / REPORT_LOCK).open("a") as file:
        with suppress(OSError):  # a disk without locks; the sweep's own report at its end holds all
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _free_memory() -> None:
    """Let go of what a job's objects hold in circles, on the GPU too, before the next job starts.

    It comes once a failed job's exception is handled and gone: until then its traceback holds the model.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _exit_code(jobs: list[SweepJob]) -> int:
    if not jobs:  # the disk took no result, as a warning has said
        return 2
    failed = [job for job in jobs if not job.finished]
    if not failed:
        return 0
    return 2 if all(job.user_error for job in failed) else 1


def _list(texts: list[str]) -> str:
    return f"[{','.join(map(quoted, texts))}]"
