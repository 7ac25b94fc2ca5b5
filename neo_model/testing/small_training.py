"""A small real training by the command ``train.py``, started again and again in no time, and what became of it.

Each start is a fork of a process that has imported everything and built nothing: a second or two are saved, and what
the child does is what ``python train.py`` does.
"""

import hashlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

# What a run needs is imported once, here; none of it starts a thread.
import neo_model.config.jobs
import neo_model.config.sweep
import neo_model.data.augmenter
import neo_model.data.shapes
import torch.utils.tensorboard  # noqa: F401
from neo_model.config.command_line import main
from neo_model.engine import hardware
from neo_model.engine.checkpoint import read_checkpoint
from neo_model.engine.progress import STOP_SIGNALS
from neo_model.utils.cores import num_cores

POLL_SECONDS = 0.002
MOST_WORKERS = 4
RATE, IMAGES_A_STEP = "train/images_per_second", 4
TIMES = {RATE, "train/data_wait_percent", "train/memory_gib", "val/seconds"}  # the figures that differ from run to run
WARMUP_STEPS = 5
# Every part of training in little: a warm-up, accumulation with a rest, evaluations, pictures of them, an average.
SETTINGS = [
    *("model=tiny", "model.encoder_dim=32", "model.decoder_dim=32", "model.num_queries=20", "model.num_denoising=10"),
    *("model.backbone.width=8", "data.num_train=14", "data.num_val=4", "data/augment=rtdetr"),
    *("data.resolution.width=128", "data.resolution.height=72"),
    *("hardware=cpu", "hardware.batch_size=2", "hardware.accumulate=2", "hardware.precision=fp32"),
    *("epochs=4", "evaluation.every=1", "evaluation.pictures=1", "log_every=1", f"schedule.warmup_steps={WARMUP_STEPS}"),
    *("logger=tensorboard", "save_minutes=0"),
]


class Start:
    """A process that trains in ``run_dir`` from where it stopped.

    Args:
        folder: keeps the data and the process's output.
        run_dir: the run's folder.
        workers: loader processes.
        arguments: of ``train.py``, besides.
        around: run in the process instead of the training, which it is given to call.
    """

    def __init__(
        self,
        folder: Path,
        run_dir: Path,
        *,
        workers: int = 0,
        arguments: list[str] = (),
        around: Callable[[Callable[[], int]], int] = lambda train: train(),
    ) -> None:
        given = [*SETTINGS, f"data.root={folder / 'data'}", f"hardware.workers={workers}", *arguments]
        if "-m" not in given:
            given += [f"hydra.run.dir={run_dir}", "resume=auto"]
        self.output = folder / "output.txt"
        self.exit_code: int | None = None
        sys.stdout.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self.pid = os.fork()
        if self.pid == 0:
            _pretend_to_have_cores()
            os._exit(around(lambda: _train(given, self.output)))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def send(self, number: int) -> bool:
        """Signal the process and its group, as terminals and schedulers do; returns whether it was still there."""
        if self.is_over():
            return False
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # it has not come to have a group of its own yet
            os.kill(self.pid, number)
        return True

    def kill(self) -> None:
        """End the process alone, at once, as the kernel does when memory runs out."""
        if not self.is_over():
            os.kill(self.pid, signal.SIGKILL)

    def is_over(self) -> bool:
        """Whether the process has ended; its exit code, minus a signal's number, is kept."""
        if self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.exit_code = os.waitstatus_to_exitcode(status) if pid else None
        return self.exit_code is not None

    def wait(self, seconds: float) -> bool:
        """Wait for its end; returns whether it came in time."""
        deadline = time.monotonic() + seconds
        while not self.is_over() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self.is_over()

    def processes(self) -> list[int]:
        """What is still there of the process and all that it started."""
        return [pid for pid, session in _sessions() if session == self.pid]

    def wait_for_orphans(self, seconds: float) -> list[int]:
        """Give what it started time to see that it is gone; returns what does not."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left


def _pretend_to_have_cores() -> None:
    """A run takes no more loader processes than there are cores; a trial on a small machine wants its number."""
    cores = max(num_cores(), MOST_WORKERS)
    hardware.num_cores = lambda: cores


def _train(arguments: list[str], output: Path) -> int:
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return main("train", arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:  # a forked process must not go on in its parent's frames: all that is left is to tell
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _sessions() -> Iterator[tuple[int, int]]:
    """Every living process and its session."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _parent, _group, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if state != "Z":
                yield int(folder.name), int(session)


def digests(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each part of a checkpoint: model, ema, optimizer, scheduler, scaler, random state, progress."""
    content = read_checkpoint(checkpoint)
    parts = ("model", "ema", "optimizer", "scheduler", "scaler", "random", "progress", "classes")
    return {part: _digest(content[part]) for part in parts}


def _digest(value: object) -> str:
    digest = hashlib.sha256()
    for path, entry in _entries(value, ""):
        digest.update(f"{path}={type(entry).__name__}".encode())
        if isinstance(entry, torch.Tensor):
            digest.update(f"{entry.dtype}{tuple(entry.shape)}".encode())
            digest.update(entry.contiguous().numpy().tobytes())
        else:
            digest.update(repr(entry).encode())
    return digest.hexdigest()


def _entries(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _entries(entry, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _entries(entry, f"{path}/{index}")
    else:
        yield path, value


def figures(run_dir: Path) -> list[dict]:
    """The records of ``metrics.jsonl`` without those that depend on the time of day."""
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """The points that TensorBoard shows, without those that depend on the time of day."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every point that it leaves out
    if not (run_dir / "tensorboard").is_dir():
        return {}
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if name not in TIMES]
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in names}


class Reference:
    """A run without a break, to compare others with.

    Args:
        folder: keeps the run and the data.
        arguments: of ``train.py``, besides.

    Attributes:
        seconds: it took.
        slowest_step: seconds of it, with what came between it and the one before: a checkpoint, an evaluation.

    Raises:
        RuntimeError: it did not come to its end.
    """

    def __init__(self, folder: Path, arguments: list[str] = ()) -> None:
        run_dir, began = folder / "reference", time.monotonic()
        start = Start(folder, run_dir, arguments=arguments)
        if not start.wait(600) or start.exit_code != 0:
            raise RuntimeError(f"the training does not run:\n{start.output.read_text()}")
        self.seconds = time.monotonic() - began
        records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        rates = [record[RATE] for record in records if RATE in record]
        self.slowest_step = IMAGES_A_STEP / min(rates)
        self.digests, self.figures = digests(run_dir / "checkpoints" / "last.pt"), figures(run_dir)
        self.best = digests_of_best(run_dir)
        self.curves = curves(run_dir)

    def differences(self, run_dir: Path) -> list[str]:
        """What of a finished run is not as in this one."""
        found = digests(run_dir / "checkpoints" / "last.pt")
        different = [part for part in found if found[part] != self.digests[part]]
        different += ["best.pt"] if digests_of_best(run_dir) != self.best else []
        # As text, in which an undefined figure equals itself.
        different += ["metrics.jsonl"] if repr(figures(run_dir)) != repr(self.figures) else []
        return different + (["TensorBoard"] if repr(curves(run_dir)) != repr(self.curves) else [])


def digests_of_best(run_dir: Path) -> list[str]:
    """SHA-256 of the best weights and their average."""
    content = read_checkpoint(run_dir / "checkpoints" / "best.pt")
    return [_digest(content[part]) for part in ("model", "ema", "progress")]
