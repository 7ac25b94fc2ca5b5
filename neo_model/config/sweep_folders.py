"""The folders of a sweep's jobs: how they are called, and whose run lies in one."""

import itertools
import re
from contextlib import suppress
from pathlib import Path

from omegaconf import OmegaConf

from neo_model.config.run_dir import RUN_FILES
from neo_model.reports.sweep_jobs import RESULT_FILE, read_result
from neo_model.utils.files import is_there
from neo_model.utils.secrets import redacted

LONGEST_NAME = 100
LONG_NUMBER = re.compile(r"-?\d+\.\d{5,}(e-?\d+)?")  # as searches choose them


def job_folder(number: int, overrides: str) -> str:
    """A job's folder name: "0_lr-5e-05_resolution-480x270" for "optim.lr=5e-05,data/resolution=480x270".

    It holds nothing that a path in an override would have to be quoted for, and no secret of the environment.
    """
    short = [re.sub(r"^[+~]*[\w./@-]*[./](?=\w+=)", "", part) for part in redacted(overrides).split(",")]
    short = [LONG_NUMBER.sub(lambda found: f"{float(found[0]):.3g}", part) for part in short]
    safe = re.sub(r"[^\w.+-]", "", "_".join(short).replace("=", "-"), flags=re.ASCII)
    return f"{number}_{safe}"[:LONGEST_NAME].rstrip("_.-")


OmegaConf.register_new_resolver("sweep_job_folder", job_folder, replace=True)


def earlier_attempt(run_dir: Path, overrides: list[str]) -> tuple[Path, dict] | None:
    """Where an earlier sweep ran the same job, under whatever number, and what came of it; None if none did."""
    for path in sorted(run_dir.parent.glob(f"*/{RESULT_FILE}")):
        result = read_result(path.parent)
        if "overrides" in result and sorted(result["overrides"]) == sorted(overrides):
            if path.parent != run_dir and not any(run_dir.iterdir()):
                run_dir.rmdir()
            return path.parent, result
    return None


def unused_folder(run_dir: Path) -> Path:
    """This folder, or a new one beside it if it holds another job's run.

    A folder's name tells jobs apart only within a command: it lacks what all its jobs share, and is cut to a length.
    """
    if not any(is_there(run_dir / name) for name in (RESULT_FILE, *RUN_FILES)):
        return run_dir
    for number in itertools.count(2):
        with suppress(FileExistsError):
            beside = run_dir.with_name(f"{run_dir.name}_{number}")
            beside.mkdir()  # of processes that ask at once, one gets it
            return beside
    raise AssertionError("there is always another number")
