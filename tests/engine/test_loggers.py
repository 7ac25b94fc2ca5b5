"""Metrics on disk, TensorBoard and W&B: what is written, what a resumed run sees, what a full disk does."""

import json
import logging
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from neo_model.engine.loggers import TensorBoardLogger, WandbLogger
from neo_model.engine.metrics_file import MetricsFile, Rewound

CONFIG = {"model": {"depth": 18}, "sizes": [480, 270], "nothing": None}


def records(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_each_line_is_readable_as_soon_as_it_is_written(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.scalars(1, 0.5, {"train/loss": torch.tensor(2.5), "train/lr": np.float32(0.25)})
    assert records(tmp_path) == [{"step": 1, "epoch": 0.5, "train/loss": 2.5, "train/lr": 0.25}]
    metrics.scalars(2, 1, {"val/AP": 0.5, "val/boxes": 7})
    assert records(tmp_path)[1] == {"step": 2, "epoch": 1, "val/AP": 0.5, "val/boxes": 7}


def test_undefined_figures_are_null(tmp_path):
    MetricsFile(tmp_path).scalars(1, 0, {"a": math.nan, "b": math.inf, "c": torch.tensor(math.nan)})
    assert records(tmp_path) == [{"step": 1, "epoch": 0, "a": None, "b": None, "c": None}]


def test_a_resumed_run_writes_no_point_twice_and_survives_a_half_written_line(tmp_path):
    first = MetricsFile(tmp_path)
    for step in (1, 2, 3, 4):
        first.scalars(step, 0, {"train/loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "ep')
    second = MetricsFile(tmp_path)
    second.rewind(2, 0)
    for step in (3, 4, 5):
        second.scalars(step, 0, {"train/loss": 10 * step})
    assert [(r["step"], r["train/loss"]) for r in records(tmp_path)] == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_half_written_line_does_not_swallow_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "ep')
    MetricsFile(tmp_path).scalars(3, 0, {})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[-1] == '{"step": 3, "epoch": 0}'


def test_truncating_before_the_first_line_does_nothing(tmp_path):
    MetricsFile(tmp_path).rewind(10, 1)
    assert os.listdir(tmp_path) == []


def test_full_disk_costs_one_warning_and_later_lines_are_whole(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    metrics = MetricsFile(tmp_path)
    metrics.scalars(1, 0, {})
    metrics.scalars(2, 0, {})
    path.unlink()
    metrics.scalars(3, 0, {})
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "metrics.jsonl" in caplog.text
    assert [json.loads(line)["step"] for line in path.read_text().split("\n") if line] == [3]


def read_tensorboard(run_dir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run_dir / "tensorboard")).Reload()


def test_tensorboard_holds_scalars_pictures_and_the_configuration(tmp_path):
    logger = TensorBoardLogger()
    logger.start(tmp_path, CONFIG)
    logger.scalars(3, 0.5, {"train/loss": torch.tensor(1.5), "val/AP": math.nan})
    logger.images(3, "val/pictures", [np.full((36, 64, 3), (255, 0, 0), np.uint8)] * 2)
    logger.close()
    logger.close()
    events = read_tensorboard(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 1.5)]
    assert [e.value for e in events.Scalars("epoch")] == [0.5]
    assert events.Tags()["images"] == ["val/pictures/0", "val/pictures/1"]
    (picture,) = events.Images("val/pictures/0")
    assert (picture.step, picture.width, picture.height) == (3, 64, 36)
    assert "config/text_summary" in events.Tags()["tensors"]


def test_pictures_keep_their_colors_in_tensorboard(tmp_path):
    import cv2

    logger = TensorBoardLogger()
    logger.start(tmp_path, CONFIG)
    logger.images(1, "val/pictures", [np.full((36, 64, 3), (250, 10, 10), np.uint8)])
    logger.close()
    encoded = np.frombuffer(read_tensorboard(tmp_path).Images("val/pictures/0")[0].encoded_image_string, np.uint8)
    blue, green, red = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[18, 32].tolist()
    assert red > 240 and max(green, blue) < 30


def test_tensorboard_of_a_resumed_run_has_each_step_once(tmp_path):
    for resumed, steps, factor in ((None, (1, 2, 3, 4), 1), (Rewound(3, []), (3, 4, 5), 10)):
        logger = TensorBoardLogger()
        logger.start(tmp_path, CONFIG, resumed)
        for step in steps:
            logger.scalars(step, 0, {"train/loss": factor * step})
        logger.close()
    points = [(e.step, e.value) for e in read_tensorboard(tmp_path).Scalars("train/loss")]
    assert points == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]


def test_tensorboard_on_a_full_disk_warns_once_and_the_run_goes_on(tmp_path, caplog, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    logger = TensorBoardLogger()
    logger.start(tmp_path, CONFIG)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", full)
    monkeypatch.setattr(RecordWriter, "flush", full)
    for step in range(30):
        logger.scalars(step, 0, {"train/loss": 1.0})
        logger.images(step, "val/pictures", [np.zeros((8, 8, 3), np.uint8)])
    logger.close()
    for thread in threading.enumerate():
        if "AsyncWriter" in type(thread).__name__:
            thread.join(5)
    warnings = [record for record in caplog.records if record.name.startswith("neo_model")]
    assert len(warnings) == 1
    assert "TensorBoard" in caplog.text and "No space left" in caplog.text


def test_tensorboard_that_cannot_start_warns_once(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file in the way")
    logger = TensorBoardLogger()
    logger.start(tmp_path, CONFIG)
    logger.scalars(1, 0, {"train/loss": 1.0})
    logger.close()
    assert len(caplog.records) == 1


def test_no_logger_no_slow_import():
    code = (
        "import sys, neo_model.engine.loggers as l; l.TensorBoardLogger(); l.WandbLogger(project='p');"
        "print([m for m in ('tensorboard', 'wandb') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_works_offline_and_a_resumed_run_keeps_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    ids = []
    for resumed in (None, Rewound(3, [])):
        logger = WandbLogger(project="neo_model")
        logger.start(run_dir, CONFIG, resumed)
        logger.scalars(3, 0.5, {"train/loss": 1.5})
        logger.images(3, "val/pictures", [np.zeros((8, 8, 3), np.uint8)])
        logger.close()
        logger.close()
        ids.append((run_dir / "wandb_id.txt").read_text())
    assert ids[0] == ids[1]
    assert len(list(run_dir.glob(f"wandb/offline-run-*/run-{ids[0]}.wandb"))) in (1, 2)
    assert len(list(run_dir.glob("wandb/offline-run-*/files/media/images/val/*.jpg"))) >= 1


def test_wandb_without_key_warns_once_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("no network\nat all")

    monkeypatch.setattr(wandb, "init", refuse)
    logger = WandbLogger(project="neo_model")
    logger.start(tmp_path, CONFIG)
    logger.scalars(1, 0, {"train/loss": 1.0})
    logger.images(1, "val/pictures", [])
    logger.close()
    assert [record.getMessage() for record in caplog.records] == [
        "W&B is switched off for the rest of the run: no network at all"
    ]
