"""Ask a small real training to stop at random moments, as terminals and schedulers do, and go on with it.

SIGTERM or SIGINT goes to the whole process group in warm-up, accumulation, evaluation, while saving and within a
sweep; the first one for certain while it trains. Each time the process must save, say so by its exit code (143 or 130),
and be gone soon with all that it started; the newest checkpoint must hold every step that was done. Every finished run
must have, bit for bit, the state and the figures of a run that nobody stopped.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from neo_model.engine.checkpoint_folder import CheckpointFolder
from neo_model.testing.small_training import POLL_SECONDS, WARMUP_STEPS, Reference, Start, figures

WORKERS = (0, 1, 2)
SWEEP = ["-m", "seed=0,1"]
SWEEP_SHARE = 0.2  # of the starts
SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 2.0  # seconds beside the unit of work in progress: a step, a checkpoint, a batch of an evaluation
LONGEST_WAIT = 120.0


@dataclass
class Outcome:
    """What a loop has seen.

    Attributes:
        signals: starts that were signalled.
        saved: of them, those that were training and ended with a checkpoint.
        sweeps: of the saved, those in a sweep.
        places: what the saved were at.
        slowest: seconds from a signal to the end of the process.
        runs: finished runs.
        failures: whatever should not have been.
    """

    signals: int = 0
    saved: int = 0
    sweeps: int = 0
    places: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    runs: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.signals} signals: {self.saved} with a checkpoint "
            f"({', '.join(f'{number} in {place}' for place, number in sorted(self.places.items()))}; {self.sweeps} in "
            f"sweeps), the others before the first step or after the last; "
            f"gone after {self.slowest:.2f} s at most; {self.runs} finished runs"
        )
        if self.failures:
            return text + "; ".join(["", *self.failures])
        return text + ", equal to the unbroken one in all their state and figures"


def signal_loop(folder: Path, signals: int, seed: int) -> Outcome:
    """Send ``signals`` signals.

    Args:
        folder: an empty one.
        signals: how often.
        seed: of the moments and numbers of workers.
    """
    generator, outcome, reference = random.Random(seed), Outcome(), Reference(folder)
    run_dir, starts = folder / "run", 0
    while (outcome.signals < signals or run_dir.exists()) and not outcome.failures:
        starts += 1
        is_signalled, is_first = outcome.signals < signals, outcome.saved == 0
        is_sweep = generator.random() < SWEEP_SHARE and is_signalled and not is_first
        arguments = [*SWEEP, f"hydra.sweep.dir={folder / f'sweep_{starts}'}"] if is_sweep else []
        saved_at = _saved_at(run_dir)
        start = Start(folder, run_dir, workers=generator.choice(WORKERS), arguments=arguments)
        moment, number = generator.uniform(0.0, reference.seconds), generator.choice(SIGNALS)
        if is_signalled and is_first:  # while it trains, by the signal that would end it without a word
            moment, number = 0.0, signal.SIGTERM
            while not start.wait(POLL_SECONDS) and _saved_at(run_dir) == saved_at:
                pass
        if not is_signalled or start.wait(moment):
            if not start.wait(LONGEST_WAIT) or start.exit_code != 0:
                raise RuntimeError(f"exit code {start.exit_code}:\n{start.output.read_text()}")
        else:
            pattern = f"sweep_{starts}/*/" if is_sweep else run_dir.name
            training = [path for path in folder.glob(pattern) if _saved_at(path) != (0 if is_sweep else saved_at)]
            _stop(start, number, partial(folder.glob, pattern), training, outcome, GRACE + reference.slowest_step)
            outcome.sweeps += is_sweep and start.exit_code > 0
            continue
        if not is_sweep:
            outcome.failures += [f"a finished run differs in {part}" for part in reference.differences(run_dir)]
            outcome.runs += 1
            shutil.rmtree(run_dir)
    return outcome


def _saved_at(run_dir: Path) -> int:
    """When its last checkpoint was written; 0 before the first."""
    last = CheckpointFolder(run_dir).last
    return last.stat().st_mtime_ns if last.exists() else 0


def _stop(
    start: Start,
    number: int,
    run_dirs: Callable[[], Iterable[Path]],
    training: list[Path],
    outcome: Outcome,
    longest: float,
) -> None:
    """Signal a process, wait for its end, and look at what it leaves.

    Args:
        start: the process.
        number: of the signal.
        run_dirs: finds the folders it trains in; asked for at the end, by which a sweep may have begun another job.
        training: those in which it has saved by now.
        outcome: takes what is seen.
        longest: seconds that it may take.
    """
    began = time.monotonic()
    start.send(number)
    if not start.wait(LONGEST_WAIT):
        raise RuntimeError(f"no end {LONGEST_WAIT:g} s after {signal.Signals(number).name}:\n{start.output.read_text()}")
    seconds = time.monotonic() - began
    outcome.signals += 1
    outcome.slowest = max(outcome.slowest, seconds)
    name = f"signal {outcome.signals} ({signal.Signals(number).name})"
    if seconds > longest:
        outcome.failures.append(f"{name}: {seconds:.1f} s until the end\n{start.output.read_text()}")
    if left := start.processes():
        outcome.failures.append(f"{name}: processes {left} are left over")
    # Before it trains, and after, nothing is to be saved, and Python ends as it does by itself.
    is_cut_short = not all(map(_is_finished, training))
    if start.exit_code not in ((128 + number,) if is_cut_short else (0, -number, 128 + number)):
        outcome.failures.append(f"{name}: exit code {start.exit_code}\n{start.output.read_text()}")
    trained = [run_dir for run_dir in run_dirs() if (run_dir / "metrics.jsonl").exists()]
    if start.exit_code != 128 + number or not trained:
        return
    outcome.saved += 1
    outcome.places[_place(max(trained, key=lambda run_dir: (run_dir / "metrics.jsonl").stat().st_mtime))] += 1
    for run_dir in trained:
        steps = [record["step"] for record in figures(run_dir)]
        newest = CheckpointFolder(run_dir).newest()
        if newest.passed_over or steps and newest.content["progress"]["step"] != steps[-1]:
            saved = newest.content["progress"]["step"]
            outcome.failures.append(f"{name}: {run_dir.name} did step {steps[-1]} and saved {saved}")


def _is_finished(run_dir: Path) -> bool:
    content = CheckpointFolder(run_dir).newest().content
    return content["progress"]["epoch"] == content["config"]["epochs"] and not content["progress"]["unevaluated"]


def _place(run_dir: Path) -> str:
    """What a run was at when it was stopped; every step is one of two accumulated batches, with a save at its end."""
    progress = CheckpointFolder(run_dir).newest().content["progress"]
    if progress["unevaluated"]:
        return "evaluation"
    return "warm-up" if progress["step"] < WARMUP_STEPS else "later steps"


def main() -> int:
    """Read the command line, run, tell; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m neo_model.testing.signal_loop", description=__doc__)
    parser.add_argument("--signals", type=int, default=20, help="how often (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads must not be forked
    with tempfile.TemporaryDirectory() as folder:
        outcome = signal_loop(Path(folder), options.signals, options.seed)
    print(outcome)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
