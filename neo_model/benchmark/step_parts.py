"""Where our training step's time goes: hooks around forward, loss, backward, the gradient's norm and the optimizer."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

from neo_model.benchmark.measure import timings_of_parts, undisturbed
from neo_model.benchmark.table import Row
from neo_model.engine.training_loop import Learner

Watcher = tuple[Any, str, str]  # an object, the name of its method, the part that a call belongs to
LEAST_ROUNDS = 5  # a part as small as the loop is not known from fewer
PARTS = ("forward", "loss", "backward", "gradient's norm", "optimizer")


def step_parts(step: Callable[[], object], learner: Learner, device: torch.device, *, rounds: int) -> list[Row]:
    """Rows of the whole step, its parts, and the loop around them (everything that is none of the parts).

    On a GPU each part is waited for, so that the step is slower than without.
    """
    wait = waiter(device)

    def sample() -> dict[str, float]:
        spent: dict[str, float] = defaultdict(float)
        with watched(learner_watchers(learner), spent, device):
            wait()
            start = time.perf_counter()
            step()
            wait()
            spent["step"] = time.perf_counter() - start
        spent["loop"] = spent["step"] - sum(spent[part] for part in PARTS)
        return spent

    samples, retakes, disturbed = zip(*(undisturbed(sample) for _ in range(max(rounds, LEAST_ROUNDS))), strict=True)
    parts = ("step", *PARTS, "loop")
    timings = timings_of_parts(parts, samples, retakes=sum(retakes), disturbed=sum(disturbed))
    return [Row(part, timing) for part, timing in timings.items()]


def learner_watchers(learner: Learner) -> list[Watcher]:
    """The calls that make up the `PARTS`."""
    return [
        (learner.model, "forward", "forward"),
        (learner.criterion, "forward", "loss"),
        (torch.Tensor, "backward", "backward"),
        (nn.utils, "get_total_norm", "gradient's norm"),
        (learner.optimizer, "step", "optimizer"),
    ]


@contextmanager
def watched(watchers: list[Watcher], spent: dict[str, float], device: torch.device) -> Iterator[None]:
    """Adds the seconds of each watched call to its part in ``spent`` while the context lasts.

    What a watched call spends within another one is its own and not the other's.
    """
    wait = waiter(device)
    within: list[float] = []  # for each call that has not ended, the seconds of the watched calls in it

    def timed(part: str, call: Callable) -> Callable:
        @functools.wraps(call)
        def timed_call(*args, **kwargs):
            wait()
            within.append(0.0)
            start = time.perf_counter()
            try:
                result = call(*args, **kwargs)
                wait()
            finally:
                seconds = time.perf_counter() - start
                spent[part] += seconds - within.pop()
                if within:
                    within[-1] += seconds
            return result

        return timed_call

    with ExitStack() as patches:
        for owner, name, part in watchers:
            patches.enter_context(mock.patch.object(owner, name, timed(part, getattr(owner, name))))
        yield


def waiter(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done everything."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
