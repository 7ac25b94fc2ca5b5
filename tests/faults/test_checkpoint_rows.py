"""Faults of checkpoints and of their disk, by their number in the table of the README."""

import errno
import io
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neo_model.config.command_line import main
from neo_model.config.compose import compose_training
from neo_model.config.jobs import train_job
from neo_model.config.restore import resumed_config
from neo_model.engine.checkpoint import read_checkpoint
from neo_model.engine.checkpoint_folder import CheckpointFolder
from neo_model.engine.progress import StopRequest
from neo_model.engine.step_recorder import StepRecorder
from neo_model.models import weights
from neo_model.testing.failing_disk import FailingDisk, Operation
from neo_model.utils import UserError
from tests.config.test_resume import different, last, losses


@pytest.fixture(scope="module")
def steps(tiny) -> list[str]:
    """A run of 3 steps an epoch, of two batches each, that records every one and saves after it."""
    few = ["hardware.batch_size=2", "hardware.accumulate=2", "log_every=1", "save_minutes=0", "evaluation.every=2"]
    return [*tiny, *few, "schedule=constant", "schedule.warmup_steps=3"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, steps) -> Path:
    """A run of two epochs without a break."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    assert main("train", [*steps, "epochs=2", f"hydra.run.dir={run_dir}"]) == 0
    return run_dir


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "training.lock"}


def test_best_weights_whose_states_were_removed_are_not_trained_over(command, steps, straight):
    run_dir = Path(shutil.copytree(straight, "run"))
    for state in (run_dir / "checkpoints").glob("[ls]*.pt"):
        state.unlink()
    before = contents(run_dir)
    outcome = command("train", *steps, "epochs=2", "hydra.run.dir=run", "resume=auto")
    assert outcome.code == 2
    said = "best.pt: is there, but no state to go on from; move it away, or choose another folder"
    assert outcome.err.splitlines()[-1].endswith(said)
    assert contents(run_dir) == before


def test_what_another_process_saved_meanwhile_is_not_trained_over(steps, straight, tmp_path):
    """Between the look at a folder and its lock lies the reading of all data."""
    config = compose_training([*steps, "epochs=2"])
    run_dir = tmp_path / "run"
    with pytest.raises(UserError, match="another process has trained here meanwhile; start again with resume=auto"):
        train_job(config, lambda: Path(shutil.copytree(straight, run_dir)))
    assert {p.relative_to(run_dir): b for p, b in contents(run_dir).items()} == {
        p.relative_to(straight): b for p, b in contents(straight).items()
    }


def test_row_26_settings_that_another_process_went_on_with_meanwhile_are_compared_too(straight, tmp_path):
    run_dir = Path(shutil.copytree(straight, tmp_path / "run"))
    config = resumed_config(run_dir, ["epochs=3"])
    checkpoint = last(run_dir)
    checkpoint["config"]["hardware"] |= {"batch_size": 4, "accumulate": 1}
    checkpoint["progress"]["batch"] = 1

    def open_folder() -> Path:
        torch.save(checkpoint, run_dir / "checkpoints" / "last.pt")
        return run_dir

    with pytest.raises(UserError) as refusal:
        train_job(config, open_folder, resume=True)
    for key, was, now in (("batch_size", 4, 2), ("accumulate", 1, 2)):
        said = f"hardware.{key}: is {was} in {run_dir}, not {now}; the run stopped within an epoch: go on with "
        assert f"{said}hardware.{key}={was}" in str(refusal.value)


def test_row_31_a_flipped_bit_sends_the_run_back_to_the_checkpoint_before(command, straight):
    shutil.copytree(straight, "run")
    Path("run", "checkpoints", "best.pt").unlink()
    flip(Path("run", "checkpoints", "last.pt"))
    outcome = command("train", "resume=run")
    assert outcome.code == 0, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if "is damaged" in line]
    assert line.startswith("run/checkpoints/last.pt is damaged (its SHA-256 is ")
    assert line.endswith("going on from run/checkpoints/step_00000005.pt")
    # What was lost is done again, and is the same.
    assert different(last(straight), last("run")) == []
    assert losses(straight) == losses("run")
    assert Path("run", "checkpoints", "best.pt").exists()


def last_refuses(patch, refusal: Exception) -> None:
    """Have ``last.pt`` not be read, and every other file as always."""
    check = weights.check_seal

    def check_or_refuse(path):
        if Path(path).name == "last.pt":
            raise refusal
        return check(path)

    patch.setattr(weights, "check_seal", check_or_refuse)


UNREADABLE = {
    "permission": (
        PermissionError(errno.EACCES, "Permission denied"),
        "cannot be read (Permission denied); see to its permissions and its disk, then try again",
    ),
    "stale": (OSError(errno.ESTALE, "Stale file handle"), "cannot be read (Stale file handle); see to its"),
    "python": (MemoryError(), "does not fit into memory; free some memory and try again"),
    "torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "does not fit into memory; free some memory"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_row_31_a_checkpoint_that_cannot_be_read_just_now_is_neither_passed_over_nor_replaced(
    command, steps, straight, monkeypatch, kind
):
    shutil.copytree(straight, "run")
    before = {path: path.read_bytes() for path in Path("run", "checkpoints").iterdir()}
    refusal, said = UNREADABLE[kind]
    last_refuses(monkeypatch, refusal)
    for arguments in (["resume=run"], [*steps, "resume=auto", "hydra.run.dir=run"]):
        outcome = command("train", *arguments, "epochs=3")
        assert outcome.code == 2 and outcome.err.startswith(f"error: run/checkpoints/last.pt: {said}"), outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in Path("run", "checkpoints").iterdir()} == before


def test_row_26_other_data_and_other_settings_are_shown(command, steps, straight):
    shutil.copytree(straight, "run")
    data = Path(read_checkpoint("run/checkpoints/last.pt")["config"]["data"]["root"])
    shutil.copytree(data, "moved")
    (annotations,) = Path("moved").glob("256x144-*-12+4/instances_train.json")
    content = json.loads(annotations.read_text())
    content["annotations"].pop()
    annotations.write_text(json.dumps(content))
    outcome = command("train", "resume=run", "data.root=moved", "epochs=3")
    error = outcome.err.splitlines()[-1]
    assert outcome.code == 2 and error.startswith("error: run/checkpoints/last.pt: was trained on other data: ")
    assert "was trained on other data: its train annotations had 12 images and" in error
    assert "go on with the same data" in error
    automatic = [*steps, "epochs=2", "hydra.run.dir=run", "resume=auto"]
    error = command("train", *automatic, "optim.lr=0.5").error
    assert "optim.lr: is 0.001 in run, not 0.5; a resumed run may change epochs, hardware" in error
    assert "all 2 epochs are done" in command("train", *automatic).err


def test_row_27_a_newer_version_is_not_passed_over(command, straight, monkeypatch):
    shutil.copytree(straight, "run")
    monkeypatch.setattr("neo_model.engine.checkpoint.FORMAT", 1)
    error = command("train", "resume=run").error
    assert "run/checkpoints/last.pt: has format 2, newer than 1; update neo_model" in error


@pytest.mark.slow
def test_row_30_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path):
    loop = [sys.executable, "-m", "neo_model.testing.kill_loop", "--kills", "3", "--folder", str(tmp_path)]
    done = subprocess.run(loop, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "equals the unbroken one" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_row_33_asked_to_stop_at_random_moments_a_run_saves_and_is_gone(tmp_path):
    loop = [sys.executable, "-m", "neo_model.testing.signal_loop", "--signals", "3"]
    done = subprocess.run(loop, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "equal to the unbroken one" in done.stdout, done.stdout + done.stderr
    assert int(re.search(r"3 signals: (\d+) with a checkpoint", done.stdout)[1]) >= 1, done.stdout


@pytest.mark.parametrize("what", ["write .last.pt.*", pytest.param("rename last.pt", marks=pytest.mark.slow)])
def test_row_32_a_full_disk_ends_the_run_with_its_checkpoint_whole(command, straight, monkeypatch, what):
    shutil.copytree(straight, "run")
    with monkeypatch.context() as patch:
        FailingDisk(Path("run"), Operation(what, 1), errno.ENOSPC, setattr=patch.setattr)
        outcome = command("train", "resume=run", "epochs=3")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("error: run/checkpoints/last.pt: cannot be written (No space left")
    found = CheckpointFolder(Path("run")).newest()
    assert found.path.name == "last.pt" and not found.passed_over and found.content["progress"]["step"] == 6
    assert not list(Path("run", "checkpoints").glob(".*"))
    assert command("train", "resume=run", "epochs=3").code == 0


@pytest.mark.parametrize("file", ["training.lock", ".config.yaml.*", ".data_findings.json.*"])
def test_row_32_a_disk_that_is_full_from_the_start_leaves_nothing_in_the_way(command, steps, monkeypatch, file):
    arguments = [*steps, "limit_batches=1", "epochs=1", "hydra.run.dir=run"]
    with monkeypatch.context() as patch:
        FailingDisk(Path("run"), Operation(f"write {file}", 1), errno.ENOSPC, setattr=patch.setattr)
        outcome = command("train", *arguments)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    name = file.removeprefix(".").removesuffix(".*")
    said = f"error: run/{name}: cannot be written (No space left on device); make room, or choose another folder"
    assert outcome.err.splitlines()[-1] == said
    assert not Path("run", name).exists() or file == "training.lock"


@pytest.mark.slow
def test_row_32_a_sweep_whose_results_cannot_be_written_says_so(command, steps, monkeypatch):
    def refuse(path, text):
        raise UserError(str(path), "cannot be written (No space left on device)", "make room")

    monkeypatch.setattr("neo_model.config.jobs.train_job", lambda *arguments, **keywords: 0.25)
    monkeypatch.setattr("neo_model.config.sweep_job.write_whole", refuse)
    outcome = command("train", "-m", "seed=1", *steps, "epochs=1", "hydra.sweep.dir=sweep")
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert "sweep/0/result.json: cannot be written (No space left on device); make room" in outcome.err


@pytest.mark.parametrize("name", ["1_seed-2", "multirun.yaml"])
def test_row_32_a_disk_that_takes_nothing_of_hydras_ends_the_sweep_in_a_line(command, steps, monkeypatch, name):
    make_folder, open_file = Path.mkdir, io.open

    def full(path):
        if Path(path).name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("neo_model.config.jobs.train_job", lambda *arguments, **keywords: 0.25)
    monkeypatch.setattr(Path, "mkdir", lambda path, *args, **kwargs: full(path) or make_folder(path, *args, **kwargs))
    monkeypatch.setattr(io, "open", lambda path, *args, **kwargs: full(path) or open_file(path, *args, **kwargs))
    outcome = command("train", "-m", "seed=1,2", *steps, "epochs=1", "hydra.sweep.dir=sweep")
    assert outcome.code == 2 and "Traceback" not in outcome.err
    said = f"sweep/{name}: cannot be written (No space left on device); make room, or choose another folder"
    assert outcome.err.splitlines()[-1].endswith(said)
    assert [path.parent.name for path in Path("sweep").glob("*/result.json")] == ["0_seed-1"] * (name == "1_seed-2")


@pytest.mark.slow
def test_row_32_whatever_operation_fails_a_run_ends_as_if_it_had_not(tmp_path):
    trials = [sys.executable, "-m", "neo_model.testing.write_faults", "--every", "200", "--first", "110"]
    done = subprocess.run([*trials, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "all ends equal the one without" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # what a smaller machine is told
def test_row_30_workers_may_change_at_each_resume(command, steps, straight, monkeypatch):
    record, stops, processes = StepRecorder.__call__, [], []
    monkeypatch.setattr(StopRequest, "__init__", _remember(StopRequest.__init__, stops))
    monkeypatch.setattr("neo_model.engine.hardware.num_cores", lambda: 4)  # a smaller machine gets fewer

    def record_and_stop(recorder, report):
        record(recorder, report)
        processes.append(len(multiprocessing.active_children()))
        stops[-1].signal_number = 15

    for workers in (0, 1, 4, 2):
        with monkeypatch.context() as patch:
            patch.setattr(StepRecorder, "__call__", record_and_stop)
            arguments = [*steps, f"hardware.workers={workers}", "epochs=2", "hydra.run.dir=run", "resume=auto"]
            assert command("train", *arguments).code == 143
    assert processes == [0, 1, 4, 2]
    assert command("train", *steps, "hardware.workers=1", "epochs=2", "hydra.run.dir=run", "resume=auto").code == 0
    assert different(last(straight), last("run")) == []
    assert losses(straight) == losses("run")


def _remember(initialise, made: list):
    def initialise_and_remember(self):
        initialise(self)
        made.append(self)

    return initialise_and_remember
