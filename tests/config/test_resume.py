"""resume=RUN_DIR: the run that goes on is the run that would have been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from neo_model.config.command_line import main
from neo_model.engine.step_recorder import StepRecorder
from tests.engine.test_run_lock import holder  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def steps(tiny) -> list[str]:
    """A run of 3 steps an epoch that records every one."""
    return [*tiny, "limit_batches=3", "log_every=1", "schedule=constant", "schedule.warmup_steps=3"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, steps) -> Path:
    """A run of two epochs without a break."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    assert main("train", [*steps, "epochs=2", f"hydra.run.dir={run_dir}"]) == 0
    return run_dir


def last(run_dir: str | Path) -> dict:
    return torch.load(Path(run_dir, "checkpoints", "last.pt"), weights_only=True)


def lines(run_dir: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]


def values(content: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Every tensor and plain value of a checkpoint with its path."""
    if isinstance(content, dict):
        for name, entry in content.items():
            yield from values(entry, f"{key}/{name}")
    elif isinstance(content, list | tuple):
        for index, entry in enumerate(content):
            yield from values(entry, f"{key}/{index}")
    else:
        yield key, content


def different(first: dict, second: dict) -> list[str]:
    """Where two checkpoints differ by a single bit: weights, average, optimizer, random state, progress, ..."""
    mine, other = (dict(values({**content, "config": None})) for content in (first, second))
    assert mine.keys() == other.keys()
    same = {k: torch.equal(v, other[k]) if isinstance(v, torch.Tensor) else v == other[k] for k, v in mine.items()}
    return [key for key in mine if not same[key]]


def losses(run_dir: str | Path) -> list[tuple[int, float]]:
    return [(line["step"], line["train/loss"]) for line in lines(run_dir) if "train/loss" in line]


def test_an_epoch_and_a_resumed_one_are_two_epochs(command, steps, straight):
    assert command("train", *steps, "epochs=1", "hydra.run.dir=parts").code == 0
    written = Path("parts/config.yaml").read_text()
    outcome = command("train", "resume=parts", "epochs=2")
    assert outcome.code == 0
    assert "going on after step 3 of 6" in outcome.err and "next: python eval.py" in outcome.err
    assert different(last(straight), last("parts")) == []
    assert losses(straight) == losses("parts")
    assert [line["epoch"] for line in lines("parts") if "val/AP" in line] == [1, 2]
    assert Path("parts/config.yaml").read_text() == written
    assert os.listdir() == ["parts"]


def test_a_run_stopped_in_mid_epoch_goes_on_at_the_next_batch(command, steps, straight, monkeypatch):
    record = StepRecorder.__call__

    def record_and_interrupt(recorder, report):
        record(recorder, report)
        if recorder.runner.progress.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(StepRecorder, "__call__", record_and_interrupt)
        stopped = command("train", *steps, "epochs=2", "hydra.run.dir=parts")
    assert stopped.code == 130
    assert stopped.err.splitlines()[-2:] == ["next: python train.py resume=parts", "stopped: SIGINT"]
    assert (last("parts")["progress"]["epoch"], last("parts")["progress"]["batch"]) == (1, 2)
    # The length that the first process was given holds without being repeated.
    assert command("train", "resume=parts").code == 0
    assert different(last(straight), last("parts")) == []
    assert losses(straight) == losses("parts")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_train_py_with_a_checkpoint(tmp_path, steps, number, code):
    longer = ["epochs=1000", "evaluation.every=1000", "hardware.workers=1", "hydra.run.dir=run"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *steps, *longer],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal and `timeout` do: the loader's worker gets it too
    _, messages = process.communicate(timeout=120)
    assert process.returncode == code, messages
    assert "Traceback" not in messages
    assert messages.splitlines()[-2:] == ["next: python train.py resume=run", f"stopped: {number.name}"]
    progress = last(tmp_path / "run")["progress"]
    assert progress["step"] == lines(tmp_path / "run")[-1]["step"] >= 5
    assert [path.name for path in sorted(Path(tmp_path, "run", "checkpoints").iterdir())][0] == "last.pt"


def test_a_finished_run_says_so(command, steps):
    assert command("train", *steps, "limit_batches=1", "hydra.run.dir=run").code == 0
    before = lines("run")
    outcome = command("train", "resume=run")
    assert outcome.code == 0
    assert "all 1 epochs are done; epochs=N trains for longer" in outcome.err
    assert lines("run") == before


@pytest.fixture(scope="module")
def run_of_an_epoch(tmp_path_factory, tiny) -> Path:
    """A run of three steps for all refusals below."""
    run_dir = tmp_path_factory.mktemp("one_epoch") / "run"
    assert main("train", [*tiny, f"hydra.run.dir={run_dir}"]) == 0
    return run_dir


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optim.lr=1", ["optim.lr: is 0.0", "not 1;", "may change epochs, hardware"]),
        ("data.num_train=3", ["data.num_train: is 12 in "]),
        ("model=rtdetr_r18", ["model.", "start a new run"]),
        ("epoch=3", ["epoch: there is no such key", "did you mean epochs?"]),
        ("experiments=overfit", ["is a recipe for whole runs"]),
        ("hydra.run.dir=other", ["does not go with resume", "the run stays in "]),
        ("epochs=many", ["epochs: 'many'"]),
        ("--config-dir=.", ["--config-dir: does not go with resume"]),
        ("--info", ["only --cfg job prints a saved run's configuration"]),
    ],
)
def test_a_resumed_run_stays_the_same_training(command, run_of_an_epoch, tmp_path, override, parts):
    before = {path: path.read_bytes() for path in run_of_an_epoch.rglob("*") if path.is_file()}
    error = command("train", f"resume={run_of_an_epoch}", override).error
    assert all(part in error for part in parts), error
    assert before == {path: path.read_bytes() for path in run_of_an_epoch.rglob("*") if path.is_file()}
    assert not os.listdir(tmp_path)


def test_the_configuration_to_go_on_with_is_printed_without_going_on(command, run_of_an_epoch, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "0123456789abcdef0123")
    before = {path: path.read_bytes() for path in run_of_an_epoch.rglob("*") if path.is_file()}
    changes = ["epochs=7", "data.root=${oc.env:MY_API_KEY}"]
    outcome = command("train", f"resume={run_of_an_epoch}", *changes, "--cfg", "job", "--resolve")
    assert outcome.code == 0, outcome.err
    printed = OmegaConf.create(outcome.out)
    assert (printed.epochs, printed.data.num_train, printed.data.root) == (7, 12, "$MY_API_KEY")
    assert before == {path: path.read_bytes() for path in run_of_an_epoch.rglob("*") if path.is_file()}


def test_hardware_may_change_and_data_may_move_between_epochs(command, run_of_an_epoch, shapes_root, tmp_path):
    shutil.copytree(run_of_an_epoch, "run")
    shutil.copytree(shapes_root, "moved")
    changes = ["hardware.batch_size=2", "data.root=moved", "data.max_bad_fraction=0.5"]
    outcome = command("train", "resume=run", "epochs=2", *changes)
    assert outcome.code == 0, outcome.err
    assert last("run")["config"]["hardware"]["batch_size"] == 2
    # The first epoch took 12 images in batches of 4, the second of 2; the schedule is at the end of two such.
    assert (last("run")["progress"]["epoch"], last("run")["progress"]["step"]) == (2, 3 + 6)
    assert last("run")["scheduler"] == {"last_epoch": 12, "steps_per_epoch": 6}
    assert "step    9/9" in outcome.err or "step 9/9" in outcome.err


def test_a_folder_in_which_another_process_trains_is_left_alone(command, run_of_an_epoch, holder):  # noqa: F811
    shutil.copytree(run_of_an_epoch, "run")
    process = holder(Path("run"))
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    error = command("train", "resume=run", "epochs=2").error
    assert error.startswith(f"error: run: process {process.pid} on ") and "is training in it; wait until" in error
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("hardware.batch_size=2", "hardware.batch_size=4"),
        ("hardware.accumulate=3", "hardware.accumulate=1"),
    ],
)
def test_what_makes_up_an_epoch_stays_within_one(command, run_of_an_epoch, override, kept):
    shutil.copytree(run_of_an_epoch, "run")
    checkpoint = last("run")
    checkpoint["progress"]["batch"] = 1
    torch.save(checkpoint, "run/checkpoints/last.pt")
    error = command("train", "resume=run", "epochs=2", override).error
    assert f"the run stopped within an epoch: go on with {kept}" in error
