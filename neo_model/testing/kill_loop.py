"""Kill a small real training with SIGKILL at random moments, go on with it, and compare what becomes of it.

Runs of a few epochs are killed, saving included, and resumed with another number of loader processes, until they are
done. After every kill the newest checkpoint must be whole and no older than the one before. Every finished run must
have, bit for bit, the weights, the average, the optimizer, the schedule, the random state, the best metric and the
figures of a run that nobody killed, and no process may be left over.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from neo_model.engine.checkpoint_folder import CheckpointFolder
from neo_model.testing.small_training import MOST_WORKERS, Reference, Start

WORKERS = (0, 0, 1, 2, MOST_WORKERS)
LONGEST_WAIT = 120.0  # seconds, for a start to end by itself
GROWTH = 1.5
ORPHAN_SECONDS = 12.0  # torch's loader processes look every 5 s whether the main one is there


@dataclass
class Outcome:
    """What a loop has seen.

    Attributes:
        kills: starts that were killed.
        while_saving: of them, those that left half a checkpoint behind.
        runs: finished runs.
        failures: whatever should not have been.
    """

    kills: int = 0
    while_saving: int = 0
    runs: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.kills} kills, {self.while_saving} of them while a checkpoint was written, in {self.runs} runs: "
        if self.failures:
            return text + "; ".join(self.failures)
        return text + "every finished run equals the unbroken one in all its state and figures"


def kill_loop(folder: Path, kills: int, seed: int) -> Outcome:
    """Kill ``kills`` times.

    Args:
        folder: an empty one.
        kills: how often.
        seed: of the moments and numbers of workers.
    """
    generator, outcome, reference = random.Random(seed), Outcome(), Reference(folder)
    starts = []
    while outcome.kills < kills or outcome.runs == 0:
        run_dir = folder / f"run_{outcome.runs}"
        starts += _run_to_its_end(folder, run_dir, generator, kills, outcome, longest=reference.seconds / 3)
        outcome.failures += [f"{run_dir.name} differs in {part}" for part in reference.differences(run_dir)]
        outcome.runs += 1
        if outcome.failures:
            return outcome
        shutil.rmtree(run_dir)
    orphans = [pid for start in starts for pid in start.wait_for_orphans(ORPHAN_SECONDS)]
    outcome.failures += [f"processes {orphans} are left over"] if orphans else []
    return outcome


def _run_to_its_end(
    folder: Path, run_dir: Path, generator: random.Random, kills: int, outcome: Outcome, longest: float
) -> list[Start]:
    """Kill and resume a run until it ends before its next kill; returns all its starts.

    A start lives for up to ``longest`` seconds, and for longer after starts that came to no step, as on a machine that
    has grown slow since the reference ran: or all kills would be of starts that do nothing yet.
    """
    starts, checkpoints, reached, patience = [], CheckpointFolder(run_dir), -1, longest
    while True:
        start = Start(folder, run_dir, workers=generator.choice(WORKERS))
        starts.append(start)
        is_killed = outcome.kills < kills and not start.wait(generator.uniform(0.0, patience))
        if is_killed:
            start.kill()
        if not start.wait(LONGEST_WAIT):
            raise RuntimeError(f"no end after {LONGEST_WAIT:g} s:\n{start.output.read_text()}")
        if start.exit_code == 0:
            return starts
        if start.exit_code != -signal.SIGKILL:
            raise RuntimeError(f"exit code {start.exit_code}:\n{start.output.read_text()}")
        outcome.kills += 1
        outcome.while_saving += any(checkpoints.folder.glob(".*.tmp"))
        patience *= GROWTH
        if checkpoints.is_empty():
            continue
        newest = checkpoints.newest()
        step = newest.content["progress"]["step"]
        if newest.passed_over or step < reached:
            outcome.failures.append(f"{run_dir.name} fell from step {reached} to {step}: {newest.passed_over}")
        if step > reached:
            patience = longest
        reached = step


def main() -> int:
    """Read the command line, run, tell; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m neo_model.testing.kill_loop", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how often (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--folder", type=Path, help="an empty one on the disk to try; a temporary one by default")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads must not be forked
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        outcome = kill_loop(Path(folder), options.kills, options.seed)
    seconds = time.monotonic() - began
    print(f"{outcome} ({seconds:.0f} s, {seconds / max(outcome.kills, 1):.2f} s a kill)")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
