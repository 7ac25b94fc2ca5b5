"""One job of ``python train.py -m``, in the sweep's own process or in one that a launcher starts."""

import fcntl
import gc
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from neo_model.config.compose import CompositionError, is_launching, without_hydra
from neo_model.config.sweep_folders import earlier_attempt, unused_folder
from neo_model.config.sweep_signals import end_interrupted_job
from neo_model.config.targets import TARGET
from neo_model.config.validate import validate_training
from neo_model.engine.job_device import take_device
from neo_model.reports.sweep import write_sweep_report
from neo_model.reports.sweep_jobs import FAILED, FINISHED, INTERRUPTED, RESULT_FILE, RUNNING, SweepJob
from neo_model.utils import UserError
from neo_model.utils.files import remove_unfinished, telling_of_refusal, write_whole
from neo_model.utils.messages import tell
from neo_model.utils.secrets import redacted
from neo_model.utils.signals import raise_interruption_before

REPORT_LOCK = ".report.lock"
COMMAND_ID = "NEO_MODEL_SWEEP_COMMAND"  # in the environment of every job: which command has started it
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
# Launchers that start several jobs on this machine, which share its GPUs; Slurm gives each job its own.
BESIDE_EACH_OTHER = (
    JOBLIB,
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
)


def run_job(config: DictConfig) -> float | None:
    """One job of a sweep, in a folder that no other job has used; the sweep's report is made anew when it ends.

    Returns:
        its AP, for sweepers that search; None if it failed, so that the other jobs still run.
    """
    own = HydraConfig.get()
    run_dir = Path(own.runtime.output_dir)
    config, skip = without_hydra(config), config.sweep.skip_existing
    overrides = [redacted(text) for text in own.overrides.task if not is_launching(text)]
    sources = own.runtime.config_sources
    folders = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
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
        if config.debug:
            tell(redacted(traceback.format_exc()).rstrip())
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
        if result["status"] != INTERRUPTED:  # then it is time to go: the sweep's own end makes the report
            _free_memory()
            report(run_dir.parent)
        elif own.launcher[TARGET] == JOBLIB:
            end_interrupted_job()
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


def report(folder: Path, *, picture: bool = True) -> list[SweepJob]:
    """Tables and, unless it is time to go, picture so far; that they cannot be written is no reason to stop training."""
    try:
        with _one_at_a_time(folder):
            remove_unfinished(folder)
            return write_sweep_report(folder, picture=picture)
    except UserError as error:
        tell(f"warning: {error}")
        return []


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
