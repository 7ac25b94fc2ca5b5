"""What a run has reached, and a polite way to stop it."""

import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from types import FrameType

STOP_SIGNALS, SAVE_SIGNAL = (signal.SIGINT, signal.SIGTERM), signal.SIGUSR1
GRACE_SECONDS = 1.5
ECHO_SECONDS = 0.3  # `timeout` signals a process and then its group, of which it is one: that is no second signal
OVER = 0  # the number of no signal


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint.

    Attributes:
        step: optimizer steps done, skipped ones not counted.
        epoch: epoch in progress, from 0.
        batch: batches of it that went into steps.
        unevaluated: whether the epoch before has ended but its evaluation has not.
        best_ap: highest validation AP so far, -1 before the first.
        evaluations_without_gain: evaluations since then.
        skipped_in_a_row: steps just skipped for a gradient that was not finite.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    unevaluated: bool = False
    best_ap: float = -1.0
    evaluations_without_gain: int = 0
    skipped_in_a_row: int = 0

    def state_dict(self) -> dict:
        """Plain values by name."""
        return asdict(self)


class Interrupted(KeyboardInterrupt):
    """Training stopped at a signal, after a checkpoint.

    Args:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class StopRequest:
    """What signals ask of a run, within the context, which is of the main thread.

    The first Ctrl-C or SIGTERM is noted in ``signal_number``. A second one ends the run at once: by `Interrupted`
    wherever the main thread is, and after ``GRACE_SECONDS``, if it is stuck or its cleaning up takes longer, by ending
    the process. SIGUSR1 is noted in ``save_asked``.
    """

    is_entered = False

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.save_asked = False
        self._noted_at = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        StopRequest.is_entered = True
        self._previous_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_second_stop, args=(self._reader,), name="signals", daemon=True).start()
        for number in (*STOP_SIGNALS, SAVE_SIGNAL):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        StopRequest.is_entered = False
        os.write(self._writer, bytes([OVER]))  # the thread closes the other end
        os.close(self._writer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == SAVE_SIGNAL:
            self.save_asked = True
        elif self.signal_number is None:
            self.signal_number, self._noted_at = number, time.monotonic()
        elif time.monotonic() - self._noted_at > ECHO_SECONDS:
            raise Interrupted(number)


def _end_at_second_stop(reader: int) -> None:
    """Read the numbers of arriving signals, which the interpreter writes even while the main thread is in C code."""
    first_at = None
    while (number := os.read(reader, 1)[0]) != OVER:
        if number not in STOP_SIGNALS:
            continue
        if first_at is None:
            first_at = time.monotonic()
        elif time.monotonic() - first_at > ECHO_SECONDS:
            _await_the_end(reader, number)
            break
    os.close(reader)


def _await_the_end(reader: int, number: int) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if os.read(reader, 1)[0] == OVER:
            return
    _end_process(number)


def _end_process(number: int) -> None:
    """End this process and its children without asking them."""
    for child in multiprocessing.active_children():
        child.kill()
    os.write(2, f"stopped at once: {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def _forget_in_fork() -> None:
    """A signal to a forked worker that has no handlers of its own yet is not one to its parent."""
    if StopRequest.is_entered:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_fork)


def unless_stopped(batches: Iterable, stop: StopRequest) -> Iterator:
    """``batches``, ended by `Interrupted` as soon as a stop is asked for; the checkpoint says what is unfinished."""
    for batch in batches:
        if stop.signal_number is not None:
            raise Interrupted(stop.signal_number)
        yield batch
