"""Errors on one line, number ranges, cores, and random state that comes back whole."""

import math
import os
import random
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
import torch

from neo_model.utils import Bounds, UserError
from neo_model.utils.cores import num_cores
from neo_model.utils.seeding import random_state, restore_random_state, seed_everything


def test_a_user_error_is_one_line_whatever_it_is_made_of():
    error = UserError("data.root", "holds\n  no images", "give another\nfolder")
    assert str(error) == "data.root: holds no images; give another folder"


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        (Bounds(low=1), [1, 10**9], [0, 0.5, -1], "at least 1"),
        (Bounds(low=0.0, low_open=True), [1e-9, 5], [0, -1], "above 0"),
        (Bounds(low=0.0, high=1.0), [0, 0.5, 1], [-0.1, 1.1], "between 0 and 1"),
        (Bounds(low=0, high=2**63 - 1), [2**63 - 1], [2**63, 10**400], "between 0 and 9223372036854775807"),
    ],
)
def test_bounds(bounds, inside, outside, text):
    assert all(bounds.contains(value) for value in inside)
    assert not any(bounds.contains(value) for value in [*outside, math.nan, math.inf, -math.inf])
    assert str(bounds) == text


def test_the_cores_of_a_process_that_may_not_use_all_of_a_machine(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert num_cores.__wrapped__() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert num_cores.__wrapped__() == 64


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or num_cores() < 2, reason="there is nothing to bind to")
def test_the_cores_are_counted_before_torch_binds_the_main_thread_to_one():
    code = "import neo_model.config.command_line, torch, os; from neo_model.utils.cores import num_cores\n"
    code += "print(num_cores(), len(os.sched_getaffinity(0)))"
    environment = {**os.environ, "OMP_PROC_BIND": "true", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    counted, left = map(int, done.stdout.split())
    assert counted == num_cores() > left


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]


@pytest.mark.parametrize("seed", [0, 7, 2**40, 2**63 - 2])
def test_a_seed_decides_all_generators(seed):
    draws = []
    for _ in range(2):
        seed_everything(seed)
        draws.append(draw())
    assert draws[0] == draws[1]
    seed_everything(seed + 1)
    assert all(first != other for first, other in zip(draws[0], draw(), strict=True))


def test_random_state_comes_back_from_a_file_in_the_middle_of_a_pair_of_normals(tmp_path):
    seed_everything(3)
    draw()  # leaves the second normal of a pair waiting in Python's and NumPy's generators
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draw()
    draw()
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected


def test_the_random_state_of_a_run_among_several_gpus_comes_back_on_a_single_one(monkeypatch):
    gpus = [torch.tensor([number], dtype=torch.uint8) for number in (5, 6, 7)]

    def set_rng_state(state, device="cuda"):
        gpus[0 if device == "cuda" else device] = state

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": gpus[0 if device == "cuda" else device])
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", gpus.copy)
    monkeypatch.setattr(torch.cuda, "set_rng_state", set_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: list(map(set_rng_state, states, count())))
    state, of_old = random_state(), random_state() | {"cuda": gpus.copy()}
    del gpus[1:]
    for saved in (state, of_old):
        gpus[0] = torch.zeros(1, dtype=torch.uint8)
        restore_random_state(saved)
        assert gpus == [5]
