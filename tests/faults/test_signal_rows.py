"""Signals to a training, row 33 of the table of the README."""

import signal
from pathlib import Path

from neo_model.engine.checkpoint import read_checkpoint
from neo_model.engine.step_recorder import StepRecorder


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
