"""What the trials' trainings have that a command has not."""

import os
import signal

from neo_model.engine import Hardware
from neo_model.testing.small_training import Start


def test_a_training_has_as_many_workers_as_a_trial_wants_on_a_machine_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr("neo_model.engine.hardware.num_cores", lambda: 1)
    start = Start(tmp_path, tmp_path / "run", around=lambda train: Hardware(device="cpu", workers=4).workers)
    assert start.wait(60) and start.exit_code == 4


def test_a_signal_to_a_training_that_has_hardly_begun_ends_it_and_nothing_else(tmp_path):
    def around(train):
        os.kill(os.getpid(), signal.SIGINT)
        return train()

    start = Start(tmp_path, tmp_path / "run", around=around)
    assert start.wait(60) and start.exit_code == 130
