"""Signals to a training, row 33 of the table of the README."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from omegaconf.errors import ConfigKeyError

from neo_model.data import DetectionData
from neo_model.engine import Runner
from neo_model.engine.checkpoint import read_checkpoint
from neo_model.engine.loggers import TensorBoardLogger
from neo_model.engine.progress import ECHO_SECONDS, StopRequest
from neo_model.engine.step_recorder import StepRecorder
from neo_model.testing.failing_disk import FailingDisk, Operation
from neo_model.utils import UserError
from neo_model.utils.sealed_file import SealedWriter


def test_row_33_asked_to_save_a_run_saves_and_goes_on(command, tiny, monkeypatch):
    record, saved = StepRecorder.__call__, {}

    def record_and_ask(recorder, report):
        record(recorder, report)
        step, last = recorder.runner.progress.step, Path("run/checkpoints/last.pt")
        saved[step] = read_checkpoint(last)["progress"]["step"] if last.exists() else None
        if step == 2:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(StepRecorder, "__call__", record_and_ask)
    outcome = command("train", *tiny, "hardware.batch_size=3", "save_minutes=1000", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert saved == {1: None, 2: None, 3: 2, 4: 2}
    assert "saved run/checkpoints/last.pt at step 2\n" in outcome.err


def test_row_33_each_wish_to_save_is_acknowledged_after_a_save_of_its_own(make_runner, scripted_ap, monkeypatch):
    """One comes in the last step of an epoch, another one while a checkpoint is being written."""
    scripted_ap(0.1, 0.2)
    runner, save, seen = make_runner(epochs=2), Runner.save, []
    monkeypatch.setattr("neo_model.engine.runner.log.info", lambda said, *values: seen.append((said[:5], values[-1])))
    step = StepRecorder.__call__

    def step_and_ask(recorder, report):
        step(recorder, report)
        if runner.progress.step == 4:
            signal.raise_signal(signal.SIGUSR1)

    def save_and_ask(runner):
        save(runner)
        seen.append(("write", runner.progress.step))
        if seen.count(("write", 4)) == 1 and runner.progress.step == 4:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(StepRecorder, "__call__", step_and_ask)
    monkeypatch.setattr(Runner, "save", save_and_ask)
    runner.run()
    before = {step: seen[index - 1] for index, (what, step) in enumerate(seen) if what == "saved"}
    assert before == {4: ("write", 4), 5: ("write", 5)}


@pytest.mark.parametrize("first", ["workers", "main"])
def test_row_33_sigterm_to_every_process_of_a_run_is_a_stop_like_any_other(command, tiny, monkeypatch, first):
    """As service managers and schedulers send it, who end whatever belongs to a run."""
    record, steps = StepRecorder.__call__, []

    def record_and_signal(recorder, report):
        record(recorder, report)
        steps.append(recorder.runner.progress.step)
        workers = [str(worker.pid) for worker in multiprocessing.active_children()]
        assert workers
        pids = [*workers, str(os.getpid())] if first == "workers" else [str(os.getpid()), *workers]
        subprocess.run(["kill", "-TERM", *pids], check=True)  # not by their parent, whom torch's workers would obey
        time.sleep(0.2)  # for what torch tells of dead workers

    monkeypatch.setattr(StepRecorder, "__call__", record_and_signal)
    few = ["hardware.batch_size=1", "hardware.workers=2", "save_minutes=1000", "hydra.run.dir=run"]
    outcome = command("train", *tiny, *few)
    assert outcome.code == 143 and steps == [1], outcome.err
    assert outcome.err.splitlines()[-2:] == ["next: python train.py resume=run", "stopped: SIGTERM"]
    assert "error" not in outcome.err
    assert read_checkpoint("run/checkpoints/last.pt")["progress"]["step"] == 1
    assert not multiprocessing.active_children()


def in_c_code() -> None:
    """Minutes, in which no handler of Python's is run."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def deaf() -> None:
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass


def be_stuck(stuck, tell) -> None:
    """A training that hangs, and one of its loader processes."""
    multiprocessing.Process(target=time.sleep, args=(60,), daemon=True).start()
    with StopRequest():
        tell.send("hangs from now on")
        stuck()


@pytest.mark.parametrize(("stuck", "number"), [(in_c_code, signal.SIGTERM), (deaf, signal.SIGINT)])
def test_row_33_a_second_signal_ends_what_is_stuck_within_2_seconds(monkeypatch, capfd, stuck, number):
    monkeypatch.setattr(multiprocessing, "Process", multiprocessing.get_context("fork").Process)
    told, tell = multiprocessing.Pipe(duplex=False)
    training = multiprocessing.Process(target=be_stuck, args=(stuck, tell))
    training.start()
    tell.close()
    try:
        assert told.recv() == "hangs from now on"
        os.kill(training.pid, number)
        time.sleep(ECHO_SECONDS + 0.1)
        assert not told.poll()  # asked once it may take its time
        os.kill(training.pid, number)
        assert told.poll(2.0), "still there after 2 s"
        with pytest.raises(EOFError):  # the other end is closed: it and all that it started are gone
            told.recv()
        training.join()
    finally:
        training.kill()
    assert training.exitcode == 128 + number
    assert capfd.readouterr().err == f"stopped at once: {number.name}\n"


def ask_to_save() -> None:
    assert signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL, "it would end the process"
    signal.raise_signal(signal.SIGUSR1)


def test_row_33_asked_to_save_before_or_after_its_run_the_command_goes_on(command, tiny, monkeypatch):
    check, run = DetectionData.check_same_classes, Runner.run
    monkeypatch.setattr(DetectionData, "check_same_classes", lambda data: (ask_to_save(), check(data)))
    monkeypatch.setattr(Runner, "run", lambda runner: (run(runner), ask_to_save())[0])
    outcome = command("train", *tiny, "limit_batches=1", "hydra.run.dir=run")
    assert outcome.code == 0 and "done: run reached AP" in outcome.err
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_row_33_a_second_signal_in_the_middle_of_a_checkpoint_leaves_the_one_before(command, tiny, monkeypatch):
    pass_on = SealedWriter._pass_on

    def pass_on_or_be_stopped(writer, data):
        pass_on(writer, data)
        if Path("run/checkpoints/last.pt").exists():
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(SealedWriter, "_pass_on", pass_on_or_be_stopped)
        patch.setattr("neo_model.utils.sealed_file.PIECE", 2**12)  # so that torch is still writing
        patch.setattr("neo_model.engine.progress.ECHO_SECONDS", 0.0)
        patch.setattr("neo_model.engine.progress.GRACE_SECONDS", 60.0)  # or it would be the test's process that ends
        outcome = command("train", *tiny, "save_minutes=0", "hydra.run.dir=run")
    assert outcome.code == 143 and "Traceback" not in outcome.err
    assert outcome.err.endswith("stopped: SIGTERM\n")
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["last.pt"]
    assert read_checkpoint("run/checkpoints/last.pt")["progress"]["step"] == 1


NO_ROOM = "last.pt: cannot be written (No space left on device); make room and resume the run"


@pytest.fixture
def stopped_on_a_full_disk(monkeypatch):
    """After its first step a run is asked to stop, and its disk takes no checkpoint."""
    record, jobs = StepRecorder.__call__, []

    def record_and_stop(recorder, report):
        record(recorder, report)
        jobs.append(recorder.runner.run_dir)
        checkpoints = recorder.runner.run_dir / "checkpoints"
        FailingDisk(checkpoints, Operation("write .last.pt.*", 1), errno.ENOSPC, setattr=monkeypatch.setattr)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(StepRecorder, "__call__", record_and_stop)
    return jobs


def test_row_33_a_stop_that_cannot_save_says_so_and_ends_the_run(command, tiny, stopped_on_a_full_disk):
    outcome = command("train", *tiny, "hydra.run.dir=run")
    assert outcome.code == 143 and "Traceback" not in outcome.err and len(stopped_on_a_full_disk) == 1
    error, stopped = outcome.err.splitlines()[-2:]
    assert error.startswith(f"error: run/checkpoints/{NO_ROOM}") and stopped == "stopped: SIGTERM"
    assert error.endswith("; the stop left no new checkpoint") and error in Path("run/train.log").read_text()


def test_row_33_a_stop_that_cannot_save_ends_the_sweep(command, short, stopped_on_a_full_disk):
    outcome = command("train", "-m", "seed=1,2", *short, "data/resolution=480x270", "hydra.sweep.dir=sweep")
    assert outcome.code == 143 and len(stopped_on_a_full_disk) == 1
    assert NO_ROOM in outcome.err and outcome.err.endswith("stopped: SIGTERM\n")
    assert json.loads(Path("sweep/0_seed-1/result.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(("said", "is_told"), [("DataLoader worker (pid 7) is killed", False), ("of ours", True)])
def test_row_33_whatever_fails_after_a_stop_was_asked_for_it_is_the_end(command, tiny, monkeypatch, said, is_told):
    def stop_and_fail(*_):
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError(said)

    monkeypatch.setattr(StepRecorder, "__call__", stop_and_fail)
    outcome = command("train", *tiny, "hydra.run.dir=run")
    assert outcome.code == 130 and outcome.err.endswith("stopped: SIGINT\n")
    assert said in outcome.err and ("Traceback" in outcome.err) == is_told


def test_row_33_what_fails_after_a_stop_was_saved_does_not_deny_the_checkpoint(command, tiny, monkeypatch):
    def stop(*_):
        signal.raise_signal(signal.SIGTERM)

    def fail_to_close(logger):
        raise UserError("wandb", "does not finish", "sync it later")

    monkeypatch.setattr(StepRecorder, "__call__", stop)
    monkeypatch.setattr(TensorBoardLogger, "close", fail_to_close)
    outcome = command("train", *tiny, "logger=tensorboard", "hydra.run.dir=run")
    assert outcome.code == 143
    ends = ["error: wandb: does not finish; sync it later", "next: python train.py resume=run", "stopped: SIGTERM"]
    assert outcome.err.splitlines()[-3:] == ends
    assert read_checkpoint("run/checkpoints/last.pt")["progress"]["step"] == 1


def broken_off(*_, **__):
    """What OmegaConf makes of Ctrl-C in the middle of a node."""
    try:
        raise KeyboardInterrupt
    finally:
        raise ConfigKeyError("'NoneType' object has no attribute '_invalidate_flags_cache'")


@pytest.mark.parametrize("place", ["compose", "main"])
def test_row_33_interrupted_while_hydra_composes_a_sweep_it_says_so(command, tiny, monkeypatch, place):
    monkeypatch.setattr(f"hydra.{place}", {"compose": broken_off, "main": lambda **_: lambda _: broken_off}[place])
    outcome = command("train", "-m", "seed=1,2", *tiny)
    assert outcome.code == 130 and outcome.err == "stopped: interrupted\n"


def test_row_33_a_job_whose_interruption_was_lost_is_the_last_one(command, short, monkeypatch):
    jobs = []
    monkeypatch.setattr("neo_model.config.jobs.train_job", lambda *_, **__: (jobs.append(1), broken_off()))
    outcome = command("train", "-m", "seed=1,2", *short, "data/resolution=480x270")
    assert outcome.code == 130 and len(jobs) == 1 and outcome.err.endswith("stopped: interrupted\n")
    assert "Traceback" not in outcome.err and "ConfigKeyError" not in outcome.err
    (result,) = (json.loads(path.read_text()) for path in Path().glob("outputs/sweep/*/*/result.json"))
    assert (result["status"], result["error"]) == ("interrupted", None)
