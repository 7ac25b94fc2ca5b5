"""Have each write, fsync and rename of a small real training fail in turn, go on, and compare what becomes of it.

A training is started, and one that had to stop is resumed, as often as either changes the disk: the first operation
fails, then the second, and so on, once by EIO alone and once because the disk is full and stays full. Each time the
training must end in the one line that says why, or go on with a warning, or lose nothing at all; every checkpoint that
it was told is saved must be whole; and once resumed, it must have, bit for bit, the state of a training without a
fault.
"""

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from neo_model.engine.checkpoint_folder import CheckpointFolder
from neo_model.testing.failing_disk import FailingDisk, Operation
from neo_model.testing.small_training import Reference, Start

SHORT = [
    *("epochs=2", "data.num_train=8", "data.num_val=2", "log_every=4", "schedule.warmup_steps=2"),
    *("model.num_decoder_layers=1", "model.num_queries=10"),
]
ERRORS = {errno.EIO: "EIO", errno.ENOSPC: "ENOSPC"}
LONGEST_WAIT = 120.0  # seconds, for a start to end by itself
WARNINGS = {
    "figures are lost meanwhile": "metrics.jsonl",
    "TensorBoard is switched off": "TensorBoard",
    "train.log: cannot be written": "train.log",
}
ENDED, WENT_ON, LOST_NOTHING = "ended with its error", "went on with a warning", "lost nothing"


@dataclass(frozen=True)
class Trial:
    """What came of one failing operation.

    Attributes:
        operation: what failed.
        error: how.
        came: one of `ENDED`, `WENT_ON`, `LOST_NOTHING`.
        failures: whatever should not have been.
    """

    operation: Operation
    error: int
    came: str
    failures: list[str]


@dataclass
class Training:
    """The same training again and again, each time with another fault.

    Attributes:
        folder: an empty one.
        reference: the training without a fault.
    """

    folder: Path
    reference: Reference = field(init=False)

    def __post_init__(self) -> None:
        self.run_dir, self._facts = self.folder / "run", self.folder / "facts.json"
        self.reference = Reference(self.folder, SHORT)

    def count(self, begun: Path | None) -> list[Operation]:
        """The operations of a training without a fault, from the start or from a copy of a run that had stopped."""
        self._begin(begun)
        start, facts = self._run(None, errno.EIO)
        if start.exit_code != 0:
            raise RuntimeError(f"exit code {start.exit_code}:\n{start.output.read_text()}")
        return [Operation(*operation) for operation in facts["operations"]]

    def stopped_at(self, operation: Operation) -> Path:
        """A copy of what a training leaves in which an operation failed."""
        self._begin(None)
        self._run(operation, errno.EIO)
        return Path(shutil.copytree(self.run_dir, self.folder / "stopped"))

    def trial(self, begun: Path | None, operation: Operation, error: int) -> Trial:
        """Have an operation fail, look at what is left, and go on if there is something to go on with."""
        self._begin(begun)
        start, facts = self._run(operation, error)
        said = start.output.read_text()
        failures = [] if facts["has_failed"] else ["it never came to pass"]
        failures += list(_wrong_end(start.exit_code, said)) + list(self._lost(facts["promised"]))
        warned = {lost for text, lost in WARNINGS.items() if text in said}
        came = ENDED if start.exit_code else WENT_ON if warned else LOST_NOTHING
        if not failures:
            failures += self._differences_in_the_end(warned, is_over=start.exit_code == 0)
        return Trial(operation, error, came, [f"{failure}\n{said}" for failure in failures])

    def _begin(self, begun: Path | None) -> None:
        shutil.rmtree(self.run_dir, ignore_errors=True)
        if begun is not None:
            shutil.copytree(begun, self.run_dir)

    def _run(self, operation: Operation | None, error: int) -> tuple[Start, dict]:
        around = _on_failing_disk(self.run_dir, operation, error, self._facts)
        start = Start(self.folder, self.run_dir, arguments=SHORT, around=around)
        if not start.wait(LONGEST_WAIT):
            start.kill()
            raise RuntimeError(f"no end after {LONGEST_WAIT:g} s:\n{start.output.read_text()}")
        return start, json.loads(self._facts.read_text())

    def _lost(self, promised: int | None) -> Iterator[str]:
        """What is missing of the checkpoint that the training was last told is saved."""
        if promised is None:
            return
        newest = CheckpointFolder(self.run_dir).newest()
        if newest.passed_over:
            yield f"a checkpoint is damaged: {newest.passed_over[0]}"
        if newest.content["progress"]["step"] < promised:
            yield f"step {promised} was saved, and {newest.content['progress']['step']} is there"

    def _differences_in_the_end(self, warned: set[str], *, is_over: bool) -> list[str]:
        if not is_over:
            start = Start(self.folder, self.run_dir, arguments=SHORT)
            start.wait(LONGEST_WAIT)
            if start.exit_code != 0:
                return [f"it does not go on, exit code {start.exit_code}:\n{start.output.read_text()}\nbefore:"]
        left = [path.name for path in self.run_dir.rglob("*.tmp")]
        different = [part for part in self.reference.differences(self.run_dir) if part not in warned]
        return [f"it ends with another {part}" for part in different] + [f"{name} is left over" for name in left]


def _on_failing_disk(
    run_dir: Path, operation: Operation | None, error: int, facts: Path
) -> Callable[[Callable[[], int]], int]:
    """What runs in the process: the training on a failing disk, and then a note of what came to pass."""

    def around(train: Callable[[], int]) -> int:
        promised, save_last = [], CheckpointFolder.save_last

        def save_and_note(checkpoints: CheckpointFolder, content: dict) -> None:
            save_last(checkpoints, content)
            promised.append(content["progress"]["step"])

        CheckpointFolder.save_last = save_and_note
        disk = FailingDisk(run_dir, operation, error)
        exit_code = train()
        noted = {"operations": disk.operations, "has_failed": disk.has_failed, "promised": (promised or [None])[-1]}
        facts.write_text(json.dumps(noted))
        return exit_code

    return around


def _wrong_end(exit_code: int, said: str) -> Iterator[str]:
    """What is wrong with a training's last words."""
    if exit_code not in (0, 2):
        yield f"exit code {exit_code}"
    if "Traceback" in said or "Logging error" in said:
        yield "a traceback"
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if exit_code == 2 and (len(errors) != 1 or said.splitlines()[-1] != errors[0]):
        yield "not ended by one line"


def planned(training: Training, *, every: int = 1, first: int = 0) -> list[tuple[Path | None, Operation, int]]:
    """What is to fail, by which error, in a training that starts (None) or in one that goes on from a copied run.

    Args:
        training: the one to try.
        every, first: take only one operation in so many, from which on.
    """
    from_start = training.count(None)
    saves = [operation for operation in from_start if operation.what == "rename last.pt"]
    stopped = training.stopped_at(saves[len(saves) // 2])
    return [
        (begun, operation, error)
        for begun, operations in ((None, from_start), (stopped, training.count(stopped)))
        for operation in operations[first::every]
        for error in ERRORS
    ]


def table(trials: list[Trial]) -> str:
    """A line for each kind of operation and error, with what came of it and how often."""
    counts = Counter((trial.operation.what, ERRORS[trial.error], trial.came) for trial in trials)
    width = max(len(what) for what, *_ in counts)
    return "\n".join(f"{what:<{width}}  {error:<6}  {came}: {n}" for (what, error, came), n in sorted(counts.items()))


def main() -> int:
    """Read the command line, run, tell; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m neo_model.testing.write_faults", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take one operation in so many (1: all)")
    parser.add_argument("--first", type=int, default=0, help="the first to take (0)")
    parser.add_argument("--folder", type=Path, help="an empty one on the disk to try; a temporary one by default")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads must not be forked
    tqdm.monitor_interval = 0  # nor one with tqdm's
    began, trials = time.monotonic(), []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        training = Training(Path(folder))
        for what in tqdm(planned(training, every=options.every, first=options.first), unit="failure", disable=None):
            trials.append(trial := training.trial(*what))
            for failure in trial.failures:
                tqdm.write(f"{trial.operation}, {os.strerror(trial.error)}: {failure}")
    failed = sum(bool(trial.failures) for trial in trials)
    print(table(trials))
    verdict = f"{failed} of them not survived" if failed else "all survived, and all ends equal the one without a fault"
    print(f"{len(trials)} failing operations: {verdict} ({time.monotonic() - began:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
