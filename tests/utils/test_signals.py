import os
import signal

import pytest

from neo_model.utils.signals import ignoring, later_about_children


@pytest.fixture
def raising_handler():
    def complain(*_):
        raise RuntimeError("a process is dead")

    before = signal.signal(signal.SIGCHLD, complain)
    yield complain
    signal.signal(signal.SIGCHLD, before)


def test_a_dead_child_is_told_of_after_the_block_and_not_within(raising_handler):
    steps = []
    with pytest.raises(RuntimeError, match="a process is dead"), later_about_children():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGCHLD)
            steps.append("on")
    assert steps == ["on", "on"] and signal.getsignal(signal.SIGCHLD) is raising_handler
    with later_about_children():
        pass


def test_an_error_of_the_block_comes_first(raising_handler):
    with pytest.raises(OSError, match="full"), later_about_children():
        os.kill(os.getpid(), signal.SIGCHLD)
        raise OSError("full")
    assert signal.getsignal(signal.SIGCHLD) is raising_handler


def test_a_signal_is_ignored_within_the_block_unless_somebody_handles_it():
    with ignoring("SIGUSR2"), ignoring("SIGUSR2"), ignoring("SIGOFNOPLATFORM"):
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGUSR2)
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    caught = []
    signal.signal(signal.SIGUSR2, lambda *_: caught.append(1))
    try:
        with ignoring("SIGUSR2"):
            signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    assert caught == [1]
