"""No test of a benchmark waits for a quiet machine: its times are not looked at, and other tests run beside it."""

import logging

import pytest


@pytest.fixture(autouse=True)
def no_look_at_other_processes(monkeypatch):
    monkeypatch.setattr("neo_model.benchmark.measure.seconds_of_other_processes", lambda: None)


@pytest.fixture(autouse=True)
def log_level_as_before():
    """A benchmark silences the log of its whole process; the tests after it in this one read it."""
    logger = logging.getLogger("neo_model")
    level = logger.level
    yield
    logger.setLevel(level)
