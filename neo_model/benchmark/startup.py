"""From the command ``python train.py`` to the end of the first optimizer step, on the built-in data set.

The pictures are drawn, and the operating system's cache is filled, by runs before the measured ones.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from neo_model.benchmark.measure import timings_of_parts, undisturbed
from neo_model.benchmark.table import Report, Row, Table
from neo_model.utils import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="for train.py (none)")


def run(arguments: argparse.Namespace) -> Report:
    """Start the training as often as asked for."""
    with tempfile.TemporaryDirectory() as folder:
        start = starter(Path(folder), arguments.override)
        before = time.perf_counter()
        for _ in range(arguments.warmup):
            start()
        warming = time.perf_counter() - before
        runs, retakes, disturbed = zip(*(undisturbed(start) for _ in range(arguments.rounds)), strict=True)
    timings = timings_of_parts([*runs[0]], runs, retakes=sum(retakes), disturbed=sum(disturbed))
    rows = [Row(part, timing) for part, timing in timings.items()]
    title = " ".join(["python train.py", *arguments.override])
    return Report("startup", [Table(title, rows, "whole")], [f"{arguments.warmup} runs before them took {warming:.1f} s."])


def starter(folder: Path, overrides: list[str]) -> Callable[[], dict[str, float]]:
    """Starts a training in a process of its own; each call returns the seconds of its parts."""

    def start() -> dict[str, float]:
        file = folder / "parts.json"
        places = [f"data.root={folder / 'shapes'}", f"hydra.run.dir={Path(tempfile.mkdtemp(dir=folder)) / 'run'}"]
        command = [sys.executable, "-m", "neo_model.benchmark.startup_parts", repr(time.time()), str(file)]
        ended = subprocess.run([*command, *overrides, *places], capture_output=True, text=True)
        if ended.returncode:
            reason = ended.stderr.strip().rpartition("\n")[2]
            raise UserError("train.py", reason, "try the command by itself")
        return json.loads(file.read_text())

    return start
