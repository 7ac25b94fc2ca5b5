"""Candidates in processes of their own."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from neo_model.benchmark.apart import apart
from neo_model.engine.hardware import Hardware

CPU = Hardware(device="cpu")


def writing(path: Path):
    """A call that adds its process and its threads to a file."""

    def call():
        with path.open("a") as file:
            print(os.getpid(), torch.get_num_threads(), file=file)

    return call


def failing():
    """A call that fails."""
    return lambda: 1 / 0


def test_a_candidate_is_called_once_a_time_in_one_other_process_that_then_ends(tmp_path):
    path = tmp_path / "calls"
    with apart(partial(writing, path), CPU) as call:
        for number in (1, 2):
            call()
            lines = path.read_text().splitlines()  # it has been waited for
            assert len(lines) == number
    (line,) = set(lines)
    pid, threads = map(int, line.split())
    assert pid != os.getpid() and threads == torch.get_num_threads()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_candidate_that_fails_is_told_of(capfd):
    with apart(failing, CPU) as call, pytest.raises(RuntimeError, match=r"a process with a candidate has ended \(1\)"):
        call()
    assert "ZeroDivisionError" in capfd.readouterr().err
