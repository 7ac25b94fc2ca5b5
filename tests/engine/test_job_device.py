"""Jobs beside each other take different GPUs."""

import os
import subprocess
import sys

import pytest

from neo_model.engine.job_device import LOCKS, SWEEP_DEVICES

HOLD = """
import os, sys
from pathlib import Path
from neo_model.engine.job_device import take_device
take_device(Path(sys.argv[1]))
take_device(Path(sys.argv[1]))
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Starts a job that takes a device, and ends all of them at the end."""
    jobs = []

    def starting(visible: str | None) -> tuple[subprocess.Popen, str]:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", SWEEP_DEVICES: str(visible)}
        if visible is None:
            del environment[SWEEP_DEVICES]
        job = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        jobs.append(job)
        return job, job.stdout.readline().strip()

    yield starting
    for job in jobs:
        job.communicate()


def test_each_job_has_its_own_until_all_are_taken_and_a_dead_one_gives_its_own_back(start):
    taken = [start("2,GPU-7") for _ in range(3)]
    assert [device for _, device in taken] == ["2", "GPU-7", "2"]
    job, _ = taken[1]
    job.kill()
    job.wait()
    assert start("2,GPU-7")[1] == "GPU-7"


@pytest.mark.parametrize("visible", [None, ""])
def test_without_gpus_nothing_changes(start, tmp_path, visible):
    assert start(visible)[1] == ""
    assert not (tmp_path / LOCKS).exists()
