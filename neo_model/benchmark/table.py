"""What a benchmark found: rows of figures with their ratio to a peer, as aligned text and as JSON."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from neo_model.benchmark.measure import Timing

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "%": 100.0}  # of a `Timing`: times, and shares of one
PEERS = ("torchvision", "transformers", "faster-coco-eval", "pycocotools", "albumentations", "opencv-python-headless")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        name: what was measured.
        value: a `Timing`, or a number that was counted or measured once, in ``unit``.
        unit: of the figures shown. A `Timing` is shown in s, ms or us, or in % if its samples are shares; in any other
            unit, such as images/s, it is shown as ``items`` per second.
        items: what one call of a `Timing` handled.
        note: a remark, such as the settings.
    """

    name: str
    value: Timing | float
    unit: str = "s"
    items: float = 1.0
    note: str = ""

    @property
    def figures(self) -> tuple[float, float, float]:
        """Median, min and max in ``unit``."""
        if not isinstance(self.value, Timing):
            return (float(self.value),) * 3
        times = (self.value.median, self.value.min, self.value.max)
        if self.unit in UNITS:
            return tuple(sample * UNITS[self.unit] for sample in times)
        median, shortest, longest = times
        return self.items / median, self.items / longest, self.items / shortest

    def as_dict(self) -> dict:
        """The row in plain containers; ``samples`` are seconds per call."""
        median, low, high = self.figures
        plain = {"name": self.name, "unit": self.unit, "median": median, "min": low, "max": high, "note": self.note}
        if isinstance(self.value, Timing):
            timing = self.value
            plain |= {"samples": list(timing.samples), "retakes": timing.retakes, "disturbed": timing.disturbed}
        return plain


@dataclass(frozen=True)
class Table:
    """Rows of one comparison.

    Args:
        title: what is compared, with sizes.
        rows: in the order of printing.
        ratio_to: name of the row that the ratios are taken against, each row's median by its, or names of several,
            of which the best counts: the fastest, or the one that needs least. Rows in another unit have no ratio.
    """

    title: str
    rows: list[Row]
    ratio_to: str | Sequence[str] | None = None

    @property
    def peer(self) -> Row | None:
        """The row that the ratios are taken against."""
        if self.ratio_to is None:
            return None
        rows, names = {row.name: row for row in self.rows}, self.ratio_to
        peers = []
        for name in [names] if isinstance(names, str) else names:
            if name not in rows:
                raise ValueError(f"table {self.title!r} has no row {name!r}")
            peers.append(rows[name])
        return min(peers, key=lambda row: row.value.median if isinstance(row.value, Timing) else row.value)

    def ratios(self) -> list[float | None]:
        """For each row its ratio to the peer."""
        peer = self.peer
        if peer is None:
            return [None] * len(self.rows)
        return [row.figures[0] / peer.figures[0] if row.unit == peer.unit else None for row in self.rows]

    def text(self) -> str:
        """The table with aligned columns."""
        several = self.ratio_to is not None and not isinstance(self.ratio_to, str)
        ratio_heading = "" if self.ratio_to is None else f"x {'best peer' if several else self.ratio_to}"
        lines = [[self.title, "median", "min", "max", "", ratio_heading, ""]]
        for row, ratio in zip(self.rows, self.ratios(), strict=True):
            median, low, high = (_short(figure) for figure in row.figures)
            if not isinstance(row.value, Timing):
                low = high = ""
            ratio_text = "" if ratio is None else f"{ratio:.3f}"
            lines.append([row.name, median, low, high, row.unit, ratio_text, row.note])
        widths = [max(len(line[column]) for line in lines) for column in range(7)]
        texts = ["  ".join(map(_aligned, line, widths, "<>>><><")).rstrip() for line in lines]
        return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:]])


@dataclass(frozen=True)
class Report:
    """Everything one benchmark found.

    Args:
        name: of the benchmark.
        tables: its comparisons.
        notes: sentences that the reader needs to judge the figures.
        settings: what it ran with.
    """

    name: str
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    def text(self) -> str:
        """Machine, tables, notes, and how far other processes disturbed the timings."""
        parts = [" | ".join(f"{key}: {value}" for key, value in machine().items())]
        parts += [table.text() for table in self.tables]
        rows = [row for table in self.tables for row in table.rows if isinstance(row.value, Timing)]
        # One that is shown twice was taken once.
        timings = {id(row.value): row.value for row in rows if not row.value.is_part}.values()
        notes = list(self.notes)
        if timings:
            retakes, disturbed = sum(t.retakes for t in timings), sum(t.disturbed for t in timings)
            samples = sum(len(t.samples) for t in timings)
            notes.append(f"{samples} samples, {retakes} retaken, {disturbed} kept although other processes ran.")
        return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])

    def write_json(self, path: Path) -> None:
        """Machine, settings, and every figure with its samples."""
        tables = [
            {
                "title": table.title,
                "ratio_to": table.peer and table.peer.name,
                "rows": [row.as_dict() | {"ratio": r} for row, r in zip(table.rows, table.ratios(), strict=True)],
            }
            for table in self.tables
        ]
        content = {"benchmark": self.name, "machine": machine(), "settings": self.settings, "tables": tables}
        path.write_text(json.dumps(content | {"notes": self.notes}, indent=1, default=str) + "\n")


def machine() -> dict[str, str]:
    """Processor, threads, GPU, and the versions that the figures depend on."""
    facts = {"CPU": _processor(), "threads": str(torch.get_num_threads())}
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    facts |= {"Python": platform.python_version(), "torch": torch.__version__}
    for package in PEERS:
        # Only what the benchmark has imported: another package's version changes nothing.
        if package.replace("opencv-python-headless", "cv2").replace("-", "_") in sys.modules:
            facts[package] = metadata.version(package)
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]} x {len(names)}" if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def _aligned(text: str, width: int, side: str) -> str:
    return f"{text:{side}{width}}"


def _short(figure: float) -> str:
    """Four significant digits, no exponent."""
    if abs(figure) >= 1000:
        return f"{figure:,.0f}"
    digits = 4 - len(str(int(abs(figure)))) if abs(figure) >= 1 else 3
    return f"{figure:.{digits}f}"
