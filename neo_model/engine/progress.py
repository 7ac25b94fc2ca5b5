"""What a run has reached, and a polite way to stop it."""

import signal
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from types import FrameType


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
    """Within the context the first Ctrl-C or SIGTERM is noted in ``signal_number``; a second one ends at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise Interrupted(number)
        self.signal_number = number


def unless_stopped(batches: Iterable, stop: StopRequest) -> Iterator:
    """``batches``, ended by `Interrupted` as soon as a stop is asked for; the checkpoint says what is unfinished."""
    for batch in batches:
        if stop.signal_number is not None:
            raise Interrupted(stop.signal_number)
        yield batch
