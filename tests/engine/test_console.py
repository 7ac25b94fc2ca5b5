"""What a run shows: a live line on a terminal, sparse plain lines elsewhere, messages above."""

import io
import logging

import pytest

from neo_model.engine.console import ConsoleHandler, ProgressLine, duration

FIGURES = {"loss": 1.2345, "lr": 1e-4, "images_per_second": 45.6, "memory_gib": 3.25, "data_wait_percent": 2.4}
FIGURES |= {"gradient_norm": 9.0, "loss_vfl": 0.7, "loss_bbox": 0.2, "loss_giou": 0.3, "loss_vfl_aux_0": 0.8}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("neo_model.engine.console.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_a_log_file_gets_the_first_figures_then_a_line_every_ten_seconds_and_the_last(clock):
    stream = io.StringIO()
    with ProgressLine(100, stream=stream) as line:
        for _ in range(100):
            clock.now += 0.5
            line.advance(epoch="1/2", **FIGURES)
    lines = stream.getvalue().splitlines()
    assert [text.split("step")[1].split("/")[0].strip() for text in lines] == ["1", "21", "41", "61", "81", "100"]
    assert "\r" not in stream.getvalue()


def test_the_line_says_where_the_run_stands_how_fast_it_is_and_how_it_learns(clock):
    stream = io.StringIO()
    line = ProgressLine(1000, stream=stream)
    clock.now += 10
    line.advance(epoch="1/72", **FIGURES)
    assert stream.getvalue().split() == (
        "epoch 1/72 step 1/1000 2:46:30 left loss 1.234 lr 1.0e-04 45.6 images/s 3.2 GiB 2 % wait norm 9.0 "
        "vfl 0.700 box 0.200 giou 0.300".split()
    )


def test_time_left_of_a_resumed_run_counts_its_own_steps_only(clock):
    stream = io.StringIO()
    line = ProgressLine(1000, 900, stream=stream)
    clock.now += 60
    line.advance(**FIGURES)
    assert "step  901/1000  1:39:00 left" in stream.getvalue()


def test_steps_without_figures_keep_the_last_ones(clock):
    stream = io.StringIO()
    line = ProgressLine(3, stream=stream)
    line.advance(**FIGURES)
    line.advance()
    line.advance()
    assert stream.getvalue().splitlines()[-1].startswith("step 3/3  loss  1.234")


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_a_terminal_has_one_line_that_fits(columns, monkeypatch, clock):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    with ProgressLine(10, stream=stream) as line:
        for _ in range(10):
            clock.now += 1
            line.advance(epoch="1/1", **FIGURES)
    shown = stream.getvalue().split("\r")
    assert max(map(len, shown)) <= columns + 1
    assert stream.getvalue().count("\n") == 1
    if columns >= 80:
        assert "10/10" in shown[-1] and "45.6 images/s" in shown[-1] and "GiB" in shown[-1]


def test_the_live_line_is_redrawn_at_most_five_times_a_second(clock):
    stream = Terminal()
    line = ProgressLine(10_000, stream=stream)
    before = stream.getvalue().count("\r")
    for _ in range(1000):
        clock.now += 0.001
        line.advance(**FIGURES)
    assert stream.getvalue().count("\r") - before <= 6
    line.close()


def test_tracked_items_are_counted_until_the_next_step(clock):
    stream = io.StringIO()
    line = ProgressLine(10, stream=stream, every_seconds=0.0)
    line.advance(epoch="1/2", **FIGURES)
    list(line.track("a", "saving", 1))
    line.advance()
    lines = stream.getvalue().splitlines()
    assert lines[1] == "epoch 1/2  step  1/10  saving 1/1"
    assert "saving" not in lines[2]


def test_tracked_items_pass_through_and_are_counted(clock):
    stream = Terminal()
    line = ProgressLine(10, stream=stream)
    seen = []
    for item in line.track("abc", "evaluating", 3):
        clock.now += 1
        seen.append(item)
    line.close()
    assert seen == ["a", "b", "c"]
    assert all(f"evaluating {number}/3" in stream.getvalue() for number in (1, 2, 3))


def test_an_invisible_line_writes_nothing(clock):
    stream = Terminal()
    with ProgressLine(2, stream=stream, visible=False) as line:
        line.advance(**FIGURES)
        list(line.track("a", "evaluating", 1))
    assert stream.getvalue() == ""


def test_log_records_do_not_tear_the_live_line(clock):
    stream = Terminal()
    handler = ConsoleHandler(stream)
    with ProgressLine(5, stream=stream) as line:
        line.advance(**FIGURES)
        handler.emit(logging.LogRecord("a", logging.INFO, "", 0, "AP %.1f", (0.5,), None))
        after = stream.getvalue().split("AP 0.5")
    # The bar was wiped out before the message and drawn again below it.
    assert after[0].endswith("\r") and after[1].startswith("\n")
    assert "loss" in after[1]


def test_durations_are_hours_minutes_seconds():
    assert [duration(seconds) for seconds in (0.4, 59.6, 3600, 100 * 3600 + 61)] == [
        "0:00:00", "0:01:00", "1:00:00", "100:01:01",
    ]  # fmt: skip
