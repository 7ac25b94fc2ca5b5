"""Two trainings in one folder: the second is refused, and a dead one holds nothing."""

import errno
import fcntl
import multiprocessing
import os
from multiprocessing.connection import wait

import pytest

from neo_model.engine.run_lock import LOCK_FILE, training_alone
from neo_model.utils import UserError

FORK = multiprocessing.get_context("fork")


def hold(run_dir, said, *, with_child: bool = False) -> None:
    """Train in a folder for ever; ``with_child`` in the company of a process that outlives this one."""
    with training_alone(run_dir):
        if with_child and os.fork() == 0:
            wait([said], timeout=20)  # until the test closes its end
            os._exit(0)
        said.send("holding")
        wait([said])


@pytest.fixture
def holder():
    """Starts a process that trains in a folder, and returns it once it does."""
    started = []

    def start(run_dir, **options):
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=hold, args=(run_dir, theirs), kwargs=options)
        process.start()
        started.append((process, ours))
        assert ours.recv() == "holding"
        return process

    yield start
    for process, ours in started:
        ours.close()
        process.kill()
        process.join()


@pytest.mark.parametrize("with_child", [False, True])
def test_a_second_process_is_told_of_the_first_until_that_is_dead(tmp_path, holder, with_child):
    process = holder(tmp_path, with_child=with_child)
    with pytest.raises(UserError) as caught, training_alone(tmp_path):
        pass
    assert str(caught.value).startswith(f"{tmp_path}: process {process.pid} on ")
    assert " is training in it; wait until it has ended or stop it, or choose another folder" in str(caught.value)
    process.kill()
    process.join()
    with training_alone(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")


def test_one_process_may_train_there_again_and_again(tmp_path):
    for _ in range(2):
        with training_alone(tmp_path):
            pass


def test_a_disk_without_locks_is_a_warning_and_a_full_one_an_error(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with training_alone(tmp_path):
        (message,) = [record.getMessage() for record in caplog.records]
    assert "this disk has no locks" in message and "only one process" in message
    with pytest.raises(UserError, match="training.lock: cannot be written"), training_alone(tmp_path / "none"):
        pass
