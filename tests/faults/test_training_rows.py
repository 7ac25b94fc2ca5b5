"""Faults in the midst of training, rows 34 to 36 of the README's table."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data._utils.worker import ManagerWatchdog

from neo_model.data import workers
from neo_model.data.image_files import load_image
from neo_model.engine import Runner
from neo_model.engine.checkpoint_folder import CheckpointFolder
from neo_model.engine.step_recorder import StepRecorder
from neo_model.losses import Criterion
from neo_model.utils import UserError
from tests.config.test_resume import different, last, lines

OPTIONS = {"batch_size": 2, "prefetch": 2, "pin_memory": False, "seed": 0}


def test_row_34_a_killed_worker_ends_the_run_with_its_checkpoint(command, tiny, monkeypatch):
    record = StepRecorder.__call__

    def record_and_kill(recorder, report):
        record(recorder, report)
        if recorder.runner.progress.step == 2:
            for worker in multiprocessing.active_children():
                worker.kill()

    few = ["hardware.workers=2", "save_minutes=0", "epochs=2", "evaluation.every=2"]
    with monkeypatch.context() as patch:
        patch.setattr(StepRecorder, "__call__", record_and_kill)
        outcome = command("train", *tiny, *few, "hydra.run.dir=run")
    assert outcome.code == 2
    error = outcome.err.splitlines()[-1]
    assert error.startswith("error: hardware.workers: a loader process is lost") and "Traceback" not in outcome.err
    assert "is killed by signal: Killed" in error and error.endswith("then resume the run")
    assert not multiprocessing.active_children()
    assert CheckpointFolder(Path("run")).newest().content["progress"]["step"] >= 1
    assert command("train", "resume=run").code == 0


def test_row_34_a_hanging_worker_is_given_up_and_its_files_named(make_data, monkeypatch):
    def hang(path, size_wh, **options):
        return time.sleep(1000) if path.name == "3.jpg" else load_image(path, size_wh, **options)

    monkeypatch.setattr("neo_model.data.dataset.load_image", hang)
    monkeypatch.setattr(workers, "LONGEST_WAIT", 1.0)
    loader = make_data().train_loader(workers=1, **OPTIONS)
    with pytest.raises(UserError, match=r"is lost while it was to load .*3\.jpg.* timed out after 1.0 seconds"):
        for epoch in range(9):
            list(loader.epoch(epoch))
    loader.close()
    assert not multiprocessing.active_children()


def test_row_34_a_worker_that_hears_nothing_is_killed_at_the_end(make_data):
    loader = make_data().train_loader(workers=1, **OPTIONS)
    next(loader.epoch(0))
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        loader.close()
        assert time.monotonic() - began < 4  # torch alone waits 5 s, longer than a run may that is told to stop
        assert not multiprocessing.active_children()
    finally:
        worker.kill()


@pytest.mark.parametrize("kept_epochs", [0, 1])  # after one, all memory for batches is in use
def test_row_34_a_worker_stopped_with_batches_on_their_way_is_given_up(make_data, monkeypatch, kept_epochs):
    monkeypatch.setattr(workers, "LONGEST_WAIT", 1.0)
    expected = [images for images, _ in make_data().train_loader(**{**OPTIONS, "batch_size": 1, "workers": 0}).epoch(1)]
    loader = make_data().train_loader(**{**OPTIONS, "batch_size": 1, "workers": 1})
    kept = [list(loader.epoch(epoch)) for epoch in range(kept_epochs)]
    batches = loader.epoch(1)
    arrived = [next(batches)]
    time.sleep(0.5)  # by now two more are in the pipe
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        with pytest.raises(UserError, match=r"a loader process is lost while it was to load .*\.jpg.* timed out"):
            arrived += batches
        assert len(arrived) == 3 and len(expected) == 7 and [len(epoch) for epoch in kept] == [7] * kept_epochs
        for (images, _), same in zip(arrived, expected, strict=False):
            assert torch.equal(images, same) and images.is_contiguous(memory_format=torch.channels_last)
        loader.close()
        assert not multiprocessing.active_children()
    finally:
        worker.kill()


def test_row_34_a_worker_whose_parent_was_killed_before_it_looked_ends(make_data, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PARENT_CHECK_SECONDS", 0.1)
    look, started = ManagerWatchdog.__init__, tmp_path / "started"

    def look_late(watchdog):
        parent = os.getppid()
        started.write_text(str(os.getpid()))
        while os.getppid() == parent:
            time.sleep(0.01)
        look(watchdog)

    monkeypatch.setattr(ManagerWatchdog, "__init__", look_late)
    loader = make_data().train_loader(workers=1, **OPTIONS)
    pid = os.fork()
    if pid == 0:
        next(loader.epoch(0))
        os._exit(0)
    deadline = time.monotonic() + 20
    while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    worker = Path("/proc", started.read_text(), "stat")
    while worker.exists() and ") Z " not in worker.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists() or ") Z " in worker.read_text()


def test_row_34_a_hanging_thread_is_given_up_and_its_files_named(make_data, monkeypatch):
    released = threading.Event()

    def hang(path, size_wh, **options):
        if path.name == "3.jpg":
            released.wait(60)
        return load_image(path, size_wh, **options)

    monkeypatch.setattr("neo_model.data.dataset.load_image", hang)
    monkeypatch.setattr(workers, "LONGEST_WAIT", 0.2)
    monkeypatch.setattr("neo_model.data.loader_threads.LONGEST_CLOSE", 0.2)
    loader = make_data(loader="thread").train_loader(workers=2, **OPTIONS)
    said = r"a loader thread is lost while it was to load .*3\.jpg.* \(no batch for 0.2 seconds\); .* resume the run"
    with pytest.raises(UserError, match=said):
        for epoch in range(9):
            list(loader.epoch(epoch))
    left = [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
    assert left and all(thread.daemon for thread in left)  # so that they do not keep the process from ending
    released.set()
    for thread in left:
        thread.join(10)
        assert not thread.is_alive()


def test_row_34_threads_that_hang_in_batches_to_come_are_not_waited_for(make_data, monkeypatch):
    released, calls = threading.Event(), []

    def hang_in_second_batch(path, size_wh, **options):
        calls.append(path)
        if len(calls) > OPTIONS["batch_size"]:
            released.wait(10)
        return load_image(path, size_wh, **options)

    monkeypatch.setattr("neo_model.data.dataset.load_image", hang_in_second_batch)
    monkeypatch.setattr("neo_model.data.loader_threads.LONGEST_CLOSE", 0.2)
    loader = make_data(loader="thread").train_loader(workers=1, **OPTIONS)
    next(loader.epoch(0))
    before = time.monotonic()
    loader.close()
    assert time.monotonic() - before < 5
    released.set()


@pytest.mark.parametrize("number", [0, 1])
def test_row_34_an_error_of_ours_names_the_file_and_keeps_its_traceback(make_data, monkeypatch, number):
    def fail(path, size_wh, **options):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("neo_model.data.dataset.load_image", fail)
    loader = make_data().train_loader(workers=number, **OPTIONS)
    with pytest.raises(RuntimeError, match=r"\.jpg could not be made a sample") as caught:
        next(loader.epoch(0))
    loader.close()
    assert "ZeroDivisionError" in str(caught.value) or isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("error", [RuntimeError(), NotImplementedError()])
def test_row_34_an_error_without_a_word_is_itself(error):
    with pytest.raises(type(error)) as caught, workers.telling_of_lost_workers():
        raise error
    assert caught.value is error


@pytest.fixture
def nan_from_step_3(monkeypatch):
    """The loss is NaN once two steps are done; gives the ids of the images of all steps."""
    forward, image_ids = Criterion.forward, []

    def spoilt(criterion, outputs, targets, **keywords):
        image_ids.append([target["image_id"] for target in targets])
        losses = forward(criterion, outputs, targets, **keywords)
        return {name: loss * (float("nan") if len(image_ids) > 2 else 1.0) for name, loss in losses.items()}

    monkeypatch.setattr(Criterion, "forward", spoilt)
    return image_ids


def test_row_35_steps_without_a_finite_loss_change_nothing_and_end_the_run(
    command, tiny, monkeypatch, nan_from_step_3
):
    record = StepRecorder.__call__

    def record_and_copy(recorder, report):
        record(recorder, report)
        if recorder.runner.progress.skipped_in_a_row == 1:
            shutil.copy("run/checkpoints/last.pt", "before.pt")  # saved after the last good step

    monkeypatch.setattr(StepRecorder, "__call__", record_and_copy)
    monkeypatch.setattr("neo_model.engine.training_loop.MAX_SKIPPED_IN_A_ROW", 4)
    outcome = command("train", *tiny, "hardware.batch_size=1", "save_minutes=0", "hydra.run.dir=run")
    assert outcome.code == 2 and "Traceback" not in outcome.err
    error = outcome.err.splitlines()[-1]
    *skipped, (last_id,) = nan_from_step_3[2:]
    said = "error: step 2: 4 steps in a row had a loss or gradient that is not finite, last with images "
    remedy = "resume with hardware.precision=fp32, or start a new run with a lower optim.lr"
    assert error == f"{said}[{last_id}]; {remedy}"
    said = re.findall(r"step 2 skipped: its loss or gradient is not finite \(images (\d+)\)", outcome.err)
    assert [[int(image_id)] for image_id in said] == skipped and len(said) == 3
    assert [line["train/skipped"] for line in lines("run") if "train/skipped" in line] == [1.0] * 3
    changed = different(torch.load("before.pt", weights_only=True), last("run"))
    # The noise for denoising was drawn, and the batches are behind.
    assert changed == ["/progress/batch", "/progress/skipped_in_a_row", "/random/torch"], changed


def test_row_36_a_gpu_or_a_machine_without_the_memory(command, tiny, run_of_a_step, monkeypatch):
    def fill_gpu(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. See the documentation.")

    def fill_machine(*arguments):
        torch.empty(2**50)

    def fill_cublas(*arguments):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    def refuse_fork(*arguments):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    fills = {fill_gpu: "CUDA out of memory. Tried to allocate 2.00 GiB)", fill_machine: "can't allocate"}
    fills |= {fill_cublas: "CUBLAS_STATUS_ALLOC_FAILED when", refuse_fork: "Cannot allocate memory)"}
    for fill, said in fills.items():
        with monkeypatch.context() as patch:
            patch.setattr(Runner, "run", fill)
            patch.setattr("neo_model.config.evaluation_job.evaluate", fill)
            outcome = command("train", *tiny, f"hydra.run.dir=run_{fill.__name__}")
            assert outcome.code == 2 and "Traceback" not in outcome.err
            error = outcome.err.splitlines()[-1]
            assert error.startswith("error: hardware.batch_size: 4 images of 256x144 are too much at once (peak ")
            assert said in error and error.removeprefix("error: ") in Path(f"run_{fill.__name__}/train.log").read_text()
            for setting in ("hardware.accumulate", "hardware.recompute=[backbone,encoder]", "data/resolution"):
                assert setting in error
            assert ("hardware.workers" in error) == (fill is refuse_fork)
            assert said in command("eval", f"ckpt={run_of_a_step}/checkpoints/best.pt").error
