"""Stopping a sweep between its trainings, and one whose jobs are processes of joblib's, which stop with it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from neo_model.engine.progress import STOP_SIGNALS, Interrupted

# Has the jobs stop, waits for them, and hands a further signal on.
WAITING = """
import contextlib, os, signal, sys
exit_code, *jobs = map(int, sys.argv[1:])
def stop(*_):
    for job in jobs:
        with contextlib.suppress(ProcessLookupError):
            os.kill(job, signal.SIGTERM)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
stop()
for job in jobs:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(job, 0)
sys.exit(exit_code)
"""


@contextmanager
def stopping_between_trainings() -> Iterator[None]:
    """Have SIGTERM, as Ctrl-C does by itself, interrupt a job that does not train yet or any more, which says so."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopping_jobs_too(lock: int) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM stop the jobs, each of which saves first, and wait for them with the lock held.

    joblib kills all its processes when this one raises, and also when one of them has ended. So this process becomes
    another program that only waits, which joblib knows nothing of.

    Args:
        lock: the descriptor of the sweep's lock file, whose lock stays this process's.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for ignored in STOP_SIGNALS:  # until the other program has its own handlers
            signal.signal(ignored, signal.SIG_IGN)
        os.write(2, f"stopped: {signal.Signals(number).name}; waiting for the jobs to save\n".encode())
        with suppress(RuntimeError):  # it is being written to
            sys.stdout.flush()
        os.set_inheritable(lock, True)
        jobs = [str(process.pid) for process in multiprocessing.active_children()]
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", WAITING, str(128 + number), *jobs])

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_interrupted_job() -> None:
    """End a process of joblib's, which would otherwise begin the next job; not the sweep's own."""
    if multiprocessing.current_process().name != "MainProcess":
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(128 + signal.SIGTERM)
