"""Timings that can be compared: candidates take turns, and a sample that other processes disturbed is taken again."""

import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")

SAMPLE_SECONDS = 1.0  # a call shorter than this is repeated within a sample
MOST_RETAKES = 4  # of one sample; then the least disturbed is kept
PAUSE_SECONDS = 1.0  # before a sample is retaken, for the others to finish
# CPU time of other processes that a sample may contain. The kernel counts in ticks of 10 ms per core, so that less than
# some ticks mean nothing: a full sample is long enough for them to be no more than the share.
TOLERATED_SECONDS, TOLERATED_SHARE = 0.04, 0.04


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one candidate.

    Attributes:
        samples: one for each round.
        retakes: samples thrown away because other processes used the cores meanwhile.
        disturbed: samples kept although that happened again and again.
        is_part: these are parts of another timing's samples, which has the counts.
    """

    samples: tuple[float, ...]
    retakes: int = 0
    disturbed: int = 0
    is_part: bool = False

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def min(self) -> float:
        """The fastest sample."""
        return min(self.samples)

    @property
    def max(self) -> float:
        """The slowest sample."""
        return max(self.samples)


def interleaved(
    candidates: dict[str, Callable[[], object]],
    *,
    rounds: int = 5,
    warmup: int = 1,
    device: str = "cpu",
    foreign_seconds: Callable[[], float | None] | None = None,
) -> dict[str, Timing]:
    """Time the candidates in turns A B C A B C, so that a machine that grows slow or warm is so for all of them.

    Args:
        candidates: by name, what to call.
        rounds: samples of each. A sample repeats a short call and reports the mean.
        warmup: calls of each before the first round, not timed; one more then says how often a sample repeats the
            call. 0 turns that off as well.
        device: ``cuda`` waits for the GPU at both ends of a sample.
        foreign_seconds: CPU time that other processes have used until now, None where that is not known; by default
            as the kernel counts it.
    """
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else _do_nothing
    calls = {name: _warm_up(call, warmup, wait) for name, call in candidates.items()}
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    retakes, disturbed = dict.fromkeys(candidates, 0), dict.fromkeys(candidates, 0)
    for _ in range(rounds):
        for name, call in candidates.items():
            repeat = functools.partial(_elapsed, call, calls[name], wait)
            seconds, retaken, still_disturbed = undisturbed(repeat, foreign_seconds)
            retakes[name] += retaken
            disturbed[name] += still_disturbed
            samples[name].append(seconds / calls[name])
    return {name: Timing(tuple(samples[name]), retakes[name], disturbed[name]) for name in candidates}


def undisturbed(
    call: Callable[[], Result], foreign_seconds: Callable[[], float | None] | None = None
) -> tuple[Result, int, bool]:
    """Call until other processes leave it alone, or often enough; ``foreign_seconds`` as for `interleaved`.

    Returns:
        the result of the least disturbed call, how many were thrown away, and whether all were disturbed.
    """
    foreign_seconds, attempts = foreign_seconds or seconds_of_other_processes, []
    while len(attempts) <= MOST_RETAKES:
        before, start = foreign_seconds(), time.perf_counter()
        result = call()
        seconds, after = time.perf_counter() - start, foreign_seconds()
        foreign = 0.0 if before is None or after is None else after - before
        attempts.append((foreign, result))
        if not is_disturbed(foreign, seconds):
            return result, len(attempts) - 1, False
        time.sleep(PAUSE_SECONDS)
    return min(attempts, key=lambda attempt: attempt[0])[1], MOST_RETAKES, True


def timings_of_parts(
    parts: Sequence[str], samples: Sequence[dict[str, float]], *, retakes: int, disturbed: int
) -> dict[str, Timing]:
    """A timing for each part, in the same samples; the first part is the whole."""
    timings = {part: Timing(tuple(sample[part] for sample in samples), is_part=True) for part in parts}
    whole = parts[0]
    return timings | {whole: Timing(timings[whole].samples, retakes, disturbed)}


def is_disturbed(foreign: float, seconds: float) -> bool:
    """Whether a sample of so many seconds is worth little, for the CPU time of other processes in it."""
    return foreign > max(TOLERATED_SECONDS, TOLERATED_SHARE * seconds)


def seconds_of_other_processes() -> float | None:
    """CPU time, since the machine started, of everything that is neither this process nor a child of it.

    None where there is no /proc to tell. Time that a hypervisor took away counts: it slows a sample just as much.
    """
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    busy = user + nice + system + irq + softirq + steal
    return (busy - _ticks_of_family()) / os.sysconf("SC_CLK_TCK")


def _ticks_of_family() -> int:
    """CPU time of this process and of everything it started, the ended included."""
    parent, ticks = {}, {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name, in brackets, may hold spaces. What follows it: state, parent, ...; times are 11th to 14th.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended; its parent's count has its time
            continue
        parent[int(folder.name)] = int(fields[1])
        ticks[int(folder.name)] = sum(int(field) for field in fields[11:15])
    family = {os.getpid()}
    while grown := {pid for pid, its_parent in parent.items() if its_parent in family} - family:
        family |= grown
    return sum(ticks.get(pid, 0) for pid in family)


def _warm_up(call: Callable[[], object], warmup: int, wait: Callable[[], None]) -> int:
    """Calls that make up one sample."""
    if not warmup:
        return 1
    _elapsed(call, warmup, wait)
    # Only now: a cold call takes far longer than those of a sample, which would be too short by its measure.
    return max(1, round(SAMPLE_SECONDS / max(_elapsed(call, 1, wait), 1e-6)))


def _elapsed(call: Callable[[], object], calls: int, wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    wait()
    return time.perf_counter() - start


def _do_nothing() -> None:
    pass
