"""What the jobs of a sweep left in their folders, as one record a job."""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neo_model.utils import UserError

RESULT_FILE = "result.json"
RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, where it is, ten times as fast
FIGURES = ("AP", "AP50", "APs", "APm", "APl")


@dataclass
class SweepJob:
    """One run.

    Attributes:
        folder: its name in the sweep's folder.
        number: the job's; None for a run that no sweep started.
        choices: the overrides, or settings, in which it differs from the others.
        command: what trains it alone; None where unknown.
        status: one word, and what stopped it.
        finished: whether it trained to its end.
        user_error: whether the user's input made it fail.
        command_id: which ``train.py -m`` ran it, or found it finished, last; None where unknown.
        figures: by name AP, AP50, APs, APm, APl; absent where not known.
        best_epoch: epoch of the best AP.
        images_per_second: median over the records of training.
        peak_memory_gib: highest of the records.
        latency_ms: of one image, measured at the job's end.
        seconds: wall time.
    """

    folder: str
    number: int | None
    choices: dict[str, str]
    command: str | None
    status: str
    finished: bool
    user_error: bool = False
    command_id: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    best_epoch: float | None = None
    images_per_second: float | None = None
    peak_memory_gib: float | None = None
    latency_ms: float | None = None
    seconds: float | None = None

    @property
    def ap(self) -> float:
        """AP at its best, -1 where there is none, for sorting."""
        return self.figures.get("AP", -1.0)


def read_jobs(folder: Path) -> list[SweepJob]:
    """The runs in a folder, the highest AP first.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(str(folder), "is not a folder", "give the folder of a sweep, as in outputs/sweep")
    runs = sorted(path for path in folder.iterdir() if (path / RESULT_FILE).is_file() or is_run(path))
    if not runs:
        raise UserError(str(folder), "holds no runs", "give the folder of a sweep, as in outputs/sweep")
    results = [read_result(run) for run in runs]
    choices = _differences(runs, results)
    jobs = [_job(*entry) for entry in zip(runs, results, choices, strict=True)]
    return sorted(jobs, key=lambda job: (-job.ap, job.number is None, job.number or 0, job.folder))


def is_run(path: Path) -> bool:
    """Whether a folder holds a run of training."""
    return (path / "config.yaml").is_file()


def read_result(run: Path) -> dict:
    """The content of a job's result file; empty where it has none, or a broken one."""
    try:
        result = json.loads((run / RESULT_FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return result if isinstance(result, dict) else {}


def _differences(runs: list[Path], results: list[dict]) -> list[dict[str, str]]:
    """Of each run, the overrides that not all have; without overrides, the settings that differ."""
    if all(isinstance(result.get("overrides"), list) for result in results):
        given = [dict(_key_and_value(str(text)) for text in result["overrides"]) for result in results]
    else:
        given = [_settings(run) for run in runs]
    keys = list(dict.fromkeys(key for entry in given for key in entry))
    differing = [key for key in keys if len({entry.get(key) for entry in given}) > 1]
    return [{key: entry[key] for key in differing if key in entry} for entry in given]


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def _settings(run: Path) -> dict[str, str]:
    try:
        content = yaml.load((run / "config.yaml").read_text(), Loader=SAFE_LOADER)
    except (OSError, yaml.YAMLError):
        return {}
    return dict(_flat(content)) if isinstance(content, dict) else {}


def _flat(node: dict, prefix: str = ""):
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _job(run: Path, result: dict, choices: dict[str, str]) -> SweepJob:
    records = _records(run / "metrics.jsonl")
    best = max((entry for entry in records if _number(entry.get("val/AP"))), key=lambda e: e["val/AP"], default={})
    figures = {name: best[f"val/{name}"] for name in FIGURES if _number(best.get(f"val/{name}"))}
    if not figures and _number(result.get("AP")):
        figures = {"AP": result["AP"]}
    rates = [entry["train/images_per_second"] for entry in records if _number(entry.get("train/images_per_second"))]
    memory = [entry["train/memory_gib"] for entry in records if _number(entry.get("train/memory_gib"))]
    status, finished = _status(run, result, records)
    return SweepJob(
        folder=run.name,
        number=result.get("job") if isinstance(result.get("job"), int) else None,
        choices=choices,
        command=result.get("command"),
        status=status,
        finished=finished,
        user_error=bool(result.get("user_error")),
        command_id=result.get("command_id"),
        figures=figures,
        best_epoch=best.get("epoch"),
        images_per_second=statistics.median(rates) if rates else None,
        peak_memory_gib=max(memory, default=None),
        latency_ms=result.get("latency_ms"),
        seconds=result.get("seconds"),
    )


def _status(run: Path, result: dict, records: list[dict]) -> tuple[str, bool]:
    """In words, and whether the run trained to its end."""
    if result.get("error"):
        return f"{FAILED}: {str(result['error']).splitlines()[0]}", False
    epoch, epochs = max((e["epoch"] for e in records if _number(e.get("epoch"))), default=0), _epochs(run)
    reached = f"at epoch {epoch:g}" + (f" of {epochs}" if epochs else "")
    known = result.get("status")
    if known == FINISHED or (known is None and epochs and epoch >= epochs):
        return FINISHED, True
    return (f"{INTERRUPTED} {reached}" if known == INTERRUPTED else f"not finished, {reached}"), False


def _epochs(run: Path) -> int | None:
    text = _settings(run).get("epochs", "")
    return int(text) if text.isdigit() else None


def _records(path: Path) -> list[dict]:
    """The whole lines of a run's metrics; a line that was cut short is left out."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        records += [record] if isinstance(record, dict) else []
    return records


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def pareto_front(jobs: list[SweepJob]) -> list[SweepJob]:
    """The jobs than which no other is both as fast and as good, or better in one; the fastest first."""
    front = []
    known = [job for job in jobs if job.finished and job.latency_ms is not None and "AP" in job.figures]
    for job in sorted(known, key=lambda job: (job.latency_ms, -job.ap)):
        if not front or job.ap > front[-1].ap:
            front.append(job)
    return front
