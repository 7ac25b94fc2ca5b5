"""python train.py -m: many jobs, all checked before the first one starts, none stopped by another's failure."""

import os
import sys
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra

from neo_model.config.compose import CONF, VERSION_BASE, CompositionError, parse_overrides, set_environment
from neo_model.config.run_dir import chosen_folder, new_folder
from neo_model.config.sweep_checks import check_jobs
from neo_model.config.sweep_job import COMMAND_ID, JOBLIB, report, run_job
from neo_model.config.sweep_signals import stopping_between_trainings, stopping_jobs_too
from neo_model.config.targets import TARGET
from neo_model.config.zipping import zipping
from neo_model.engine.job_device import remember_devices
from neo_model.engine.run_lock import training_alone
from neo_model.reports.sweep_jobs import RESULT_FILE, SweepJob, read_result
from neo_model.reports.sweep_tables import terminal_text
from neo_model.utils import UserError
from neo_model.utils.files import telling_of_refusal
from neo_model.utils.quoting import quoted
from neo_model.utils.signals import raise_interruption_before


def run_sweep(overrides: list[str], config_dir: str | None) -> int:
    """Run a job for each combination of the overrides' values.

    Returns:
        0 if all its jobs finished or had finished, 2 if all that failed failed on user errors, else 1.

    Raises:
        UserError: a combination is not valid, the folder does not suit, or another sweep runs in it; none has started.
    """
    parsed = parse_overrides(overrides)
    swept = [override.key_or_group for override in parsed if override.is_sweep_override()]
    composed = check_jobs(overrides, config_dir)
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
    is_over = False
    with training_alone(folder, key="hydra.sweep.dir") as lock:
        before, sys.argv = sys.argv, [sys.argv[0], *arguments]
        try:
            zipped = zipping(list(composed.sweep.zip))
            is_joblib = composed.hydra.launcher[TARGET] == JOBLIB
            stopping = stopping_jobs_too(lock) if is_joblib else stopping_between_trainings()
            with zipped, _telling_of_plugins(folder, command_id), _telling_of_refusals_in(folder), stopping:
                hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name="train")(run_job)()
            is_over = True
        finally:
            sys.argv = before
            ended = report(folder, picture=is_over) if any(folder.glob(f"*/{RESULT_FILE}")) else []
            if ended:
                print("", terminal_text(ended, folder), sep="\n")
    return _exit_code([job for job in ended if job.command_id == command_id])


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


def _exit_code(jobs: list[SweepJob]) -> int:
    if not jobs:  # the disk took no result, as a warning has said
        return 2
    failed = [job for job in jobs if not job.finished]
    if not failed:
        return 0
    return 2 if all(job.user_error for job in failed) else 1


def _list(texts: list[str]) -> str:
    return f"[{','.join(map(quoted, texts))}]"
