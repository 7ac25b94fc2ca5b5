"""No test of a benchmark waits for a quiet machine: its times are not looked at, and other tests run beside it."""

import pytest


@pytest.fixture(autouse=True)
def no_look_at_other_processes(monkeypatch):
    monkeypatch.setattr("neo_model.benchmark.measure.seconds_of_other_processes", lambda: None)
