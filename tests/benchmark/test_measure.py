"""Turns, retakes and the arithmetic of samples."""

import subprocess
import sys
import time
from collections import defaultdict
from itertools import accumulate, cycle
from types import SimpleNamespace

import pytest
import torch

from neo_model.benchmark import measure
from neo_model.benchmark.ceiling import copying
from neo_model.benchmark.loop import TimedIterator
from neo_model.benchmark.measure import Timing, interleaved, seconds_of_other_processes
from neo_model.benchmark.step_parts import step_parts, watched
from neo_model.benchmark.table import Report, Table


def undisturbed():
    return 0.0


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0.0)


def test_a_timing_has_the_median_and_the_extremes():
    timing = Timing((3.0, 1.0, 2.0, 10.0))
    assert (timing.median, timing.min, timing.max) == (2.5, 1.0, 10.0)


def test_candidates_take_turns_after_the_warm_up():
    order = []
    candidates = {name: lambda name=name: order.append(name) for name in "abc"}
    interleaved(candidates, rounds=2, warmup=0, foreign_seconds=undisturbed)
    assert "".join(order) == "abcabc"


def test_a_short_call_is_repeated_and_its_own_time_reported(monkeypatch):
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.2)
    calls = []

    def call():
        calls.append(None)
        time.sleep(0.02 if len(calls) > 1 else 0.2)  # the first is cold

    timing = interleaved({"nap": call}, rounds=2, foreign_seconds=undisturbed)["nap"]
    assert 5 <= (len(calls) - 2) // 2 <= 10
    assert all(0.02 <= seconds < 0.2 for seconds in timing.samples)


def test_no_full_sample_hides_more_of_other_processes_than_the_share_that_is_tolerated():
    assert measure.is_disturbed(0.05, measure.SAMPLE_SECONDS)
    assert not measure.is_disturbed(0.03, measure.SAMPLE_SECONDS)


def test_a_disturbed_sample_is_taken_again():
    # Before and after each attempt: the first meets half a second of others' CPU time, the rest none.
    readings = iter([0.0, 0.5] + [0.5] * 4)
    timing = interleaved({"a": int}, rounds=2, warmup=0, foreign_seconds=lambda: next(readings))["a"]
    assert (len(timing.samples), timing.retakes, timing.disturbed) == (2, 1, 0)


def test_on_a_machine_that_never_rests_the_least_disturbed_sample_is_kept_and_counted():
    others = [0.5, 0.4, 0.1, 0.3, 0.2]
    readings = iter([value for total in accumulate(others, initial=0.0) for value in (total, total)][1:-1])
    naps = cycle([0.001, 0.001, 0.03, 0.001, 0.001])
    candidates = {"a": lambda: time.sleep(next(naps))}
    timing = interleaved(candidates, rounds=1, warmup=0, foreign_seconds=lambda: next(readings))["a"]
    assert (timing.retakes, timing.disturbed) == (measure.MOST_RETAKES, 1)
    assert timing.samples[0] >= 0.03


def test_without_a_count_of_other_processes_every_sample_stands():
    timing = interleaved({"a": int}, rounds=1, warmup=0, foreign_seconds=lambda: None)["a"]
    assert (timing.retakes, timing.disturbed) == (0, 0)


@pytest.mark.skipif(seconds_of_other_processes() is None, reason="no /proc")
def test_the_work_of_a_child_is_ours_and_that_of_others_is_not():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    before = measure._ticks_of_family()
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert measure._ticks_of_family() - before >= 25
    # Started by a shell that ends at once, it is adopted by another process and no longer ours.
    before = seconds_of_other_processes()
    subprocess.run(["sh", "-c", '"$0" -c "$1" & sleep 0.05', sys.executable, burn], check=True)
    for _ in range(100):
        if seconds_of_other_processes() - before >= 0.25:
            return
        time.sleep(0.05)
    pytest.fail("the other process's CPU time was not seen")


def test_what_is_spent_within_another_watched_call_counts_once():
    class Work:
        def outer(self) -> None:
            time.sleep(0.02)
            self.inner()

        def inner(self) -> None:
            time.sleep(0.05)

    spent = defaultdict(float)
    started = time.perf_counter()
    with watched([(Work, "outer", "outer"), (Work, "inner", "inner")], spent, torch.device("cpu")):
        Work().outer()
        Work().inner()
    seconds = time.perf_counter() - started
    assert spent["inner"] >= 0.1 and spent["outer"] >= 0.02
    assert sum(spent.values()) <= seconds


def test_the_parts_of_a_step_are_medians_of_five_with_disturbed_steps_retaken(monkeypatch):
    readings = iter([0.0, 0.5] + [0.5] * 40)  # the first step meets half a second of others' CPU time, the rest none
    monkeypatch.setattr(measure, "seconds_of_other_processes", lambda: next(readings))
    learner = SimpleNamespace(
        model=torch.nn.Linear(2, 2), criterion=torch.nn.MSELoss(), optimizer=SimpleNamespace(step=lambda: None)
    )
    steps = []

    def step():
        steps.append(None)
        learner.criterion.forward(learner.model.forward(torch.ones(2)), torch.ones(2)).backward()
        learner.optimizer.step()

    rows = step_parts(step, learner, torch.device("cpu"), rounds=1)
    assert len(steps) == 6
    assert {len(row.value.samples) for row in rows} == {5}
    said = Report("step", [Table("step", rows)]).text().splitlines()[-1]
    assert said == "5 samples, 1 retaken, 0 kept although other processes ran."
    assert len(step_parts(lambda: None, learner, torch.device("cpu"), rounds=7)[0].value.samples) == 7


def test_a_ceiling_takes_its_turns_among_the_candidates():
    ceiling = copying(torch.device("cpu"))
    timings = interleaved({"ours": int, "copy": ceiling.call}, rounds=2, warmup=0, foreign_seconds=undisturbed)
    read = ceiling.time_of(ceiling.work / 4, timings["copy"])
    assert read.samples == pytest.approx([seconds / 4 for seconds in timings["copy"].samples])
    retaken = ceiling.time_of(1.0, Timing((1.0,), retakes=3, disturbed=1))
    assert (retaken.retakes, retaken.disturbed) == (3, 1)


@pytest.mark.parametrize(
    ("others", "trained", "kept", "disturbed"),
    [
        ([9.0, 0.0, 1.0, 0.0, 0.0], 4, [1, 3], 0),  # the first is the warm-up; disturbed steps give way to later ones
        ([0.0, 1.0, 3.0, 2.0, 0.0], 5, [4, 1], 1),  # the batches are at an end: the least disturbed counts too
    ],
)
def test_a_disturbed_step_of_a_run_is_left_out(monkeypatch, others, trained, kept, disturbed):
    readings = accumulate(others, initial=0.0)
    monkeypatch.setattr("neo_model.benchmark.loop.seconds_of_other_processes", lambda: next(readings))
    steps = TimedIterator(iter(range(len(others))), warmup=1, rounds=2)
    for batch in steps:
        steps.spent["batch"] = batch
    assert len(steps.steps) == trained - 1
    counted, left_out, still_disturbed = steps.least_disturbed()
    assert [step["batch"] for step in counted] == kept
    assert (left_out, still_disturbed) == (trained - 1 - 2, disturbed)
