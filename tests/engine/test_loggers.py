"""Metrics on disk, TensorBoard and W&B: what is written, what a resumed run sees, what a full disk does."""

import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from neo_model.engine.loggers import TensorBoardLogger
from neo_model.engine.metrics_file import MetricsFile, Rewound
from neo_model.engine.wandb_file import read_wandb
from neo_model.engine.wandb_logger import WandbLogger

CONFIG = {"model": {"depth": 18}, "sizes": [480, 270], "nothing": None}


def rewind(metrics: MetricsFile, step: int, epoch: float, *, unevaluated: bool = False) -> Rewound:
    rewound = metrics.rewound(step, epoch, unevaluated=unevaluated)
    metrics.keep(rewound)
    return rewound


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


def test_a_half_written_line_does_not_swallow_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "ep')
    MetricsFile(tmp_path).scalars(3, 0, {})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[-1] == '{"step": 3, "epoch": 0}'


def test_truncating_before_the_first_line_does_nothing(tmp_path):
    rewind(MetricsFile(tmp_path), 10, 1)
    assert os.listdir(tmp_path) == []


def test_a_byte_that_is_no_text_costs_its_line_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "epoch": 0}\n{"step": \xff\n{"step": 2, "epoch": 0}\n\xff')
    rewind(MetricsFile(tmp_path), 2, 1)
    assert path.read_bytes() == b'{"step": 1, "epoch": 0}\n{"step": 2, "epoch": 0}\n'


def make_ndarray(tensor):
    from tensorboard.util.tensor_util import make_ndarray

    return make_ndarray(tensor)


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


def test_tensorboard_holds_spreads_curves_and_what_runs_are_compared_by(tmp_path):
    logger = TensorBoardLogger()
    logger.start(tmp_path, {"epochs": 3, "optim": {"lr": 1e-4, "_target_": "x"}, "data": {"root": "/disk", "name": "coco"}})
    logger.histograms(2, {"matched_iou/last": np.array([0.01, 0.52, 0.53]), "matched_iou/aux_0": np.zeros(0)})
    falling = np.linspace(1, 0.5, 101)
    logger.precision_curves(2, {"val_precision/cat": np.where(np.arange(101) > 80, 0, falling)})  # recall ends at 0.8
    logger.close()
    events = read_tensorboard(tmp_path)
    assert events.Tags()["histograms"] == ["matched_iou/last"]
    spread = events.Histograms("matched_iou/last")[0].histogram_value
    assert spread.num == 3 and 2.0 in spread.bucket
    assert events.PluginTagToContent("pr_curves").keys() == {"val_precision/cat"}
    right, wrong, _, missed, precision, recall = make_ndarray(events.Tensors("val_precision/cat")[0].tensor_proto)
    assert list(recall) == pytest.approx(np.linspace(1, 0, 101)) and precision[100 - 40] == pytest.approx(0.8)
    assert list(right + missed) == [100] * 101 and (right[100 - 40], wrong[100 - 40], right[0]) == (40, 10, 0)
    assert (right + wrong)[20:100].all()  # the page draws no point without them
    started = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"optim.lr" in started and b"data.name" in started and b"/disk" not in started and b"_target_" not in started


def test_pictures_keep_their_colors_in_tensorboard(tmp_path):
    import cv2

    logger = TensorBoardLogger()
    logger.start(tmp_path, CONFIG)
    logger.images(1, "val/pictures", [np.full((36, 64, 3), (250, 10, 10), np.uint8)])
    logger.close()
    encoded = np.frombuffer(read_tensorboard(tmp_path).Images("val/pictures/0")[0].encoded_image_string, np.uint8)
    blue, green, red = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[18, 32].tolist()
    assert red > 240 and max(green, blue) < 30


def records_of_ended(path) -> list:
    """The records of an ended run's ``.wandb`` file; W&B's own process writes the last after `finish` has returned."""
    deadline = time.monotonic() + 20
    while "exit" not in {record.WhichOneof("record_type") for record in read_wandb(path)} and time.monotonic() < deadline:
        time.sleep(0.1)
    return list(read_wandb(path))


def rows_of(path) -> list[dict]:
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in read_wandb(path)
        if record.WhichOneof("record_type") == "history"
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_offline_holds_the_same(tmp_path, monkeypatch):
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    logger = WandbLogger(project="neo_model", mode="offline")
    logger.start(tmp_path, {"epochs": 3, "optim": {"lr": 1e-4}})
    for step in range(1, 301):  # enough of them to fill several blocks of the file
        logger.scalars(step, step / 100, {"train/loss": 300 - step, "train/lr": 1e-4})
    logger.images(301, "train/pictures", [np.full((36, 64, 3), (255, 0, 0), np.uint8)] * 2)
    logger.histograms(302, {"matched_iou/last": np.array([0.01, 0.52, 0.53])})
    logger.precision_curves(303, {"cat": np.linspace(1, 0, 101)})
    logger.close()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    settings = {}
    for record in records_of_ended(path):
        settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    history = rows_of(path)
    assert (settings["epochs"], settings["optim"]) == (3, {"lr": 1e-4})
    losses = [(row["step"], row["epoch"], row["train/loss"]) for row in history if "train/loss" in row]
    assert losses == [(step, step / 100, 300 - step) for step in range(1, 301)]
    shown = {name: (row["step"], value) for row in history for name, value in row.items()}
    assert shown["train/pictures.count"] == (301, 2)
    assert (shown["train/pictures.width"], shown["train/pictures.height"]) == ((301, 64), (301, 36))
    assert all((path.parent / "files" / name).is_file() for name in shown["train/pictures.filenames"][1])
    assert shown["matched_iou/last.values"] == (302, [1] + [0] * 9 + [2] + [0] * 9)
    table = json.loads((path.parent / "files" / shown["val_precision_table.path"][1]).read_text())
    assert len(table["data"]) == 101 and table["data"][50][1:] == ["cat", 0.5]


def test_no_logger_no_slow_import():
    code = (
        "import sys, neo_model.engine as e; e.TensorBoardLogger(); e.WandbLogger(project='p');"
        "print([m for m in ('tensorboard', 'wandb') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
