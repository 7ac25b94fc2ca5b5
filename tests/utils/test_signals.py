import os
import signal

import pytest

from neo_model.utils.signals import later_about_children


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
