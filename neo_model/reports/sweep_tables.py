"""A sweep's jobs as CSV, as Markdown and as lines for the terminal."""

import csv
import io
from pathlib import Path

from neo_model.reports.sweep_jobs import FIGURES, RESULT_FILE, SweepJob
from neo_model.utils.errors import visible

TOP = 10
UNKNOWN = "-"
LONGEST_STATUS = 100
LONGEST_NUMBER = 9
COMMAND_UNKNOWN = f"whose command no {RESULT_FILE} tells"


def csv_text(jobs: list[SweepJob]) -> str:
    """All figures in full; an empty cell where one is not known."""
    keys = _keys(jobs)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    further = ("best_epoch", "images_per_second", "peak_memory_gib", "latency_ms", "seconds", "status")
    writer.writerow(["job", "folder", *keys, *FIGURES, *further])
    for job in jobs:
        figures = [job.figures.get(name) for name in FIGURES]
        rest = [getattr(job, name) for name in further]
        writer.writerow([job.number, job.folder, *(job.choices.get(key) for key in keys), *figures, *rest])
    return out.getvalue()


def markdown_text(jobs: list[SweepJob], folder: Path) -> str:
    """A page with the winning command, the table and the picture."""
    rows = _rows(jobs)
    lines = [f"# Sweep {folder.name}", "", _summary(jobs), ""]
    best = winner(jobs)
    if best and best.command:
        lines += ["The best:", "", "```bash", best.command, "```", ""]
    elif best:
        lines += [f"The best: `{best.folder}`, {COMMAND_UNKNOWN}.", ""]
    lines += ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows[:1]]
    lines += ["|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows[1:]]
    lines += ["", "Latency is that of one image, from uint8 on the host to boxes on the host, batch 1, without decoding."]
    return "\n".join([*lines, "", "![AP against latency, and over each swept parameter](sweep.png)", ""])


def terminal_text(jobs: list[SweepJob], folder: Path) -> str:
    """The best jobs and, as the last line, the command that trains the winner alone, or its folder."""
    rows = _rows(jobs)
    shown = rows[: TOP + 1]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    more = [f"... and {len(rows) - len(shown)} more"] if len(rows) > len(shown) else []
    best = winner(jobs)
    if best:
        last = best.command or f"{folder / best.folder}, {COMMAND_UNKNOWN}"
    else:
        last = "no job has finished with an AP yet"
    return visible("\n".join([f"{_summary(jobs)}: {folder / 'results.md'}", *lines, *more, f"best: {last}"]))


def winner(jobs: list[SweepJob]) -> SweepJob | None:
    """The finished job with the highest AP."""
    return next((job for job in jobs if job.finished and "AP" in job.figures), None)


def _summary(jobs: list[SweepJob]) -> str:
    finished = sum(job.finished for job in jobs)
    return f"{len(jobs)} jobs, {finished} finished"


def _keys(jobs: list[SweepJob]) -> list[str]:
    return list(dict.fromkeys(key for job in jobs for key in job.choices))


def _rows(jobs: list[SweepJob]) -> list[list[str]]:
    keys = _keys(jobs)
    header = ["job", *keys, *FIGURES, "best epoch", "images/s", "memory GiB", "latency ms", "time", "status"]
    return [header, *(_row(job, keys) for job in jobs)]


def _row(job: SweepJob, keys: list[str]) -> list[str]:
    name = job.folder if job.number is None else str(job.number)
    figures = [_figure(job.figures.get(key), ".4f") for key in FIGURES]
    rest = [
        _figure(job.best_epoch, "g"),
        _figure(job.images_per_second, ".1f"),
        _figure(job.peak_memory_gib, ".2f"),
        _figure(job.latency_ms, ".1f"),
        _duration(job.seconds),
    ]
    choices = [short(job.choices.get(key, UNKNOWN)) for key in keys]
    return [name, *choices, *figures, *rest, job.status[:LONGEST_STATUS]]


def short(value: str) -> str:
    """A value as people read it: a number of many digits, as searches choose them, to four."""
    try:
        return value if len(value) <= LONGEST_NUMBER else f"{float(value):.4g}"
    except ValueError:
        return value


def _figure(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
