"""python train.py -m: many jobs, all checked before the first one starts, none stopped by another's failure."""

import gc
import json
import math
import re
import sys
import traceback
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from neo_model.config.compose import (
    CONF,
    VERSION_BASE,
    compose_collecting,
    parse_overrides,
    set_environment,
    without_hydra,
)
from neo_model.config.hydra_guard import check_composed_hydra
from neo_model.config.problems import raise_all
from neo_model.config.quoting import quoted
from neo_model.config.run_dir import chosen_folder, new_folder
from neo_model.config.secrets import redacted
from neo_model.config.validate import check_training, validate_training
from neo_model.utils import UserError

RESULT_FILE = "result.json"
LONGEST_NAME = 100


def job_folder(number: int, overrides: str) -> str:
    """A job's folder name: "0_lr-5e-05_resolution-480x270" for "optim.lr=5e-05,data/resolution=480x270".

    It holds nothing that a path in an override would have to be quoted for, and no secret of the environment.
    """
    short = [re.sub(r"^[+~]*[\w./@-]*[./](?=\w+=)", "", part) for part in redacted(overrides).split(",")]
    safe = re.sub(r"[^\w.+-]", "", "_".join(short).replace("=", "-"), flags=re.ASCII)
    return f"{number}_{safe}"[:LONGEST_NAME].rstrip("_.-")


OmegaConf.register_new_resolver("sweep_job_folder", job_folder, replace=True)


def run_sweep(overrides: list[str], config_dir: str | None) -> int:
    """Run a job for each combination of the overrides' values.

    Returns:
        0 if all jobs finished, 2 if all that failed failed on user errors, else 1.

    Raises:
        UserError: a combination is not valid; nothing has started.
    """
    parsed = parse_overrides(overrides)
    swept = [override.key_or_group for override in parsed if override.is_sweep_override()]
    composed = _check_jobs(overrides, swept, config_dir)
    folder = Path(composed.hydra.sweep.dir)
    if not any(override.key_or_group == "hydra.sweep.dir" for override in parsed):
        folder = new_folder(folder.parent)
    elif any(folder.glob(f"*/{RESULT_FILE}")):
        raise UserError(str(folder), "already holds a sweep", "choose another hydra.sweep.dir")
    chosen_folder(folder)
    fixed = [override.key_or_group for override in parsed if override.key_or_group not in swept]
    own = [f"hydra.sweep.dir={quoted(str(folder))}", f"hydra.job.config.override_dirname.exclude_keys={_list(fixed)}"]
    kept = [text for text in overrides if not text.startswith("hydra.sweep.dir=")]
    arguments = ["--multirun", *(["--config-dir", config_dir] if config_dir else []), *kept, *own]
    set_environment()
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name="train")(run_job)()
    finally:
        sys.argv = before
        results = read_results(folder)
        (folder / "results.txt").write_text(table(results, folder) + "\n")
        print("", table(results, folder), sep="\n")
    return _exit_code(results)


def _check_jobs(overrides: list[str], swept: list[str], config_dir: str | None) -> DictConfig:
    """Compose and check every job that Hydra's own sweeper will start; of another sweeper's, what they share."""
    parsed = parse_overrides(overrides)
    if any(override.key_or_group == "hydra/sweeper" for override in parsed):
        jobs = [[override.input_line for override in parsed if override.key_or_group not in swept]]
    else:
        own = [override.input_line for override in parsed if override.key_or_group.startswith("hydra")]
        shared = [override for override in parsed if override.input_line not in own]
        jobs = [own + job for job in BasicSweeper.split_arguments(shared, max_batch_size=None)[0]]
    found = []
    for job in jobs:
        composed, problems = compose_collecting("train", job, config_dir=config_dir)
        check_composed_hydra(composed)
        config = without_hydra(composed)
        try:
            if config.get("resume"):
                problems.append(UserError("resume", "does not go with -m", "resume one run at a time"))
            check_training(config, problems)
        except UserError as error:
            found.append(error)
    raise_all(found)
    return composed


def run_job(config: DictConfig) -> float:
    """One job of a sweep, in the folder that Hydra made for it.

    Returns:
        its AP, for sweepers that search; NaN if it failed, so that the other jobs still run.
    """
    own = HydraConfig.get()
    run_dir = Path(own.runtime.output_dir)
    result = {"job": own.job.num, "folder": run_dir.name, "AP": None, "error": None, "user_error": False}
    print(f"\njob {run_dir.name}", file=sys.stderr)
    try:
        validate_training(config)
        from neo_model.config.jobs import train_job

        result["AP"] = train_job(config, lambda: run_dir)
    except UserError as error:
        result |= {"error": redacted(str(error)), "user_error": True}
        print(f"error: {result['error']}", file=sys.stderr)
        _release(error.__cause__)
    except Exception as error:  # a crash of one job must not take the others with it; it is shown and tabled
        result |= {"error": redacted(traceback.format_exception_only(error)[-1].strip())}
        print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        _release(error)
    (run_dir / RESULT_FILE).write_text(json.dumps(result) + "\n")
    return math.nan if result["AP"] is None else result["AP"]


def _release(error: BaseException | None) -> None:
    """Let go of what a failed job's frames hold, on the GPU too, before the next job starts."""
    if error is not None:
        traceback.clear_frames(error.__traceback__)
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def read_results(folder: Path) -> list[dict]:
    """What the jobs in a sweep's folder left, in order of their numbers."""
    results = [json.loads(path.read_text()) for path in folder.glob(f"*/{RESULT_FILE}")]
    return sorted(results, key=lambda result: result["job"])


def table(results: list[dict], folder: Path) -> str:
    """A line a job: its AP, or the first line of its error."""
    lines = [f"{len(results)} jobs in {folder}"]
    width = max((len(result["folder"]) for result in results), default=0)
    for result in results:
        outcome = f"AP {result['AP']:.4f}" if result["error"] is None else f"failed: {result['error'].splitlines()[0]}"
        lines.append(f"  {result['folder']:<{width}}  {outcome}")
    return "\n".join(lines)


def _exit_code(results: list[dict]) -> int:
    failed = [result for result in results if result["error"] is not None]
    if not failed:
        return 0
    return 2 if all(result["user_error"] for result in failed) else 1


def _list(texts: list[str]) -> str:
    return f"[{','.join(map(quoted, texts))}]"
