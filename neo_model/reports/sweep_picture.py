"""A sweep in one picture: AP against latency with the Pareto front, and AP over each swept parameter."""

import math
import re
from pathlib import Path

from matplotlib.axes import Axes

from neo_model.reports.charts import BLUE, GREY, VERMILION, save, subplots
from neo_model.reports.sweep_jobs import SweepJob, pareto_front
from neo_model.reports.sweep_tables import short

COLUMNS = 3
MOST_LABELS = 12
MOST_PARAMETERS = 8
MOST_TICKS = 6


def draw(jobs: list[SweepJob], path: Path) -> None:
    """Write the picture; jobs without an AP are only counted in it."""
    shown = [job for job in jobs if job.finished and "AP" in job.figures]
    keys = list(dict.fromkeys(key for job in shown for key in job.choices))[:MOST_PARAMETERS]
    panels = 1 + len(keys)
    columns = 2 if panels == 4 else min(COLUMNS, panels)
    rows = math.ceil(panels / columns)
    drawn, axes = subplots(rows, columns, width=4.9 * columns + 0.6, height=4.1 * rows)
    _against_latency(axes[0], shown, len(jobs))
    for key, axis in zip(keys, axes[1:], strict=False):
        _over_parameter(axis, shown, key)
    for axis in axes[panels:]:
        axis.set_visible(False)
    save(drawn, path)


def _against_latency(axis: Axes, shown: list[SweepJob], total: int) -> None:
    axis.set_xlabel("latency of one image (ms, batch 1)")
    axis.set_ylabel("AP (IoU 0.50 to 0.95)")
    timed = [job for job in shown if job.latency_ms is not None]
    missing = total - len(timed)
    left_out = f"\n{missing} of {total} jobs have no AP or latency" if missing else ""
    if not timed:
        axis.set_title(f"AP against latency{left_out}", loc="left")
        return
    front = pareto_front(timed)
    others = [job for job in timed if job not in front]
    axis.plot([j.latency_ms for j in front], [j.ap for j in front], "-", color=VERMILION, lw=1.5, zorder=2)
    axis.scatter([j.latency_ms for j in others], [j.ap for j in others], color=GREY, s=45, label="others", zorder=3)
    axis.scatter(
        [j.latency_ms for j in front], [j.ap for j in front], color=VERMILION, marker="D", s=55, label="Pareto front",
        zorder=4,
    )  # fmt: skip
    for job in timed if len(timed) <= MOST_LABELS else front:
        name = job.folder if job.number is None else f"{job.number}"
        axis.annotate(name[:20], (job.latency_ms, job.ap), xytext=(6, 5), textcoords="offset points", fontsize=10)
    axis.margins(0.12)
    axis.legend(frameon=False, loc="best", fontsize=10)
    best, fastest = _name(front[-1]), _name(front[0])
    also = "and is the fastest" if best == fastest else f"{fastest} is the fastest"
    axis.set_title(f"Job {best} has the best AP, {front[-1].ap:.3f}; {also}{left_out}", loc="left")


def _name(job: SweepJob) -> str:
    return job.folder[:20] if job.number is None else str(job.number)


def _over_parameter(axis: Axes, shown: list[SweepJob], key: str) -> None:
    values = [job.choices.get(key, "not given") for job in shown]
    numbers = [_number(value) for value in values]
    axis.set_xlabel(key)
    axis.set_ylabel("AP (IoU 0.50 to 0.95)")
    if any(number is None for number in numbers):
        order = sorted(set(values), key=_natural)
        places = [order.index(value) for value in values]
        axis.set_xticks(range(len(order)), order, rotation=0 if len(order) <= 3 else 30)
    else:
        places = numbers
        positive = min(places) > 0
        if positive and max(places) / min(places) >= 5:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(lambda place, _: f"{place:g}")
        if len(set(places)) <= MOST_TICKS:
            names = dict(zip(places, values, strict=True))
            axis.set_xticks(sorted(names), [short(names[place]) for place in sorted(names)])
            axis.minorticks_off()
    axis.scatter(places, [job.ap for job in shown], color=BLUE, s=45, zorder=3)
    best = max(range(len(shown)), key=lambda number: shown[number].ap)
    axis.scatter(places[best], shown[best].ap, color=VERMILION, marker="D", s=60, zorder=4, label="best job")
    groups = {place: [job.ap for job, at in zip(shown, places, strict=True) if at == place] for place in set(places)}
    if all(len(group) > 1 for group in groups.values()) and len(groups) > 1:
        ordered = sorted(groups)
        means = [sum(groups[place]) / len(groups[place]) for place in ordered]
        axis.plot(ordered, means, "--", color=BLUE, lw=1.2, label="mean", zorder=2)
    axis.legend(frameon=False, fontsize=10)
    axis.margins(0.15)
    name = key.rpartition(".")[2].rpartition("/")[2]
    axis.set_title(f"AP over {name}: best at {short(values[best])}", loc="left")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorting key that puts 960x540 before 1280x720."""
    return [(int(part), "") if part.isdigit() else (10**9, part) for part in re.findall(r"\d+|\D+", text)]
