"""What the trials' trainings have that a command has not."""

from neo_model.engine import Hardware
from neo_model.testing.small_training import Start


def test_a_training_has_as_many_workers_as_a_trial_wants_on_a_machine_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr("neo_model.engine.hardware.num_cores", lambda: 1)
    start = Start(tmp_path, tmp_path / "run", around=lambda train: Hardware(device="cpu", workers=4).workers)
    assert start.wait(60) and start.exit_code == 4
