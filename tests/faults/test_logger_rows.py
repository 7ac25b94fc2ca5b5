"""Figures on full disks, without a network and after a resume, rows 37 and 38 of the README's table."""

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from neo_model.config.run_log import LogFile, run_log
from neo_model.engine.console import ProgressLine
from neo_model.engine.loggers import TensorBoardLogger
from neo_model.engine.metrics_file import MetricsFile, Rewound
from neo_model.engine.wandb_file import last_row
from neo_model.engine.wandb_logger import WandbLogger
from neo_model.testing.failing_disk import FailingDisk, Operation
from tests.engine.test_loggers import CONFIG, read_tensorboard, records, records_of_ended, rewind, rows_of

ROOT = Path(__file__).resolve().parents[2]


def test_row_37_metrics_on_a_full_disk_cost_one_warning_and_later_lines_are_whole(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    metrics = MetricsFile(tmp_path)
    metrics.scalars(1, 0, {})
    metrics.scalars(2, 0, {})
    path.unlink()
    metrics.scalars(3, 0, {})
    assert path.read_text().count("\n") == 1  # and no empty line where one was lost
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "metrics.jsonl" in caplog.text
    assert [json.loads(line)["step"] for line in path.read_text().split("\n") if line] == [3]


def test_row_37_a_log_file_on_a_full_disk_costs_one_warning(tmp_path, capsys):
    path = tmp_path / "train.log"
    path.symlink_to("/dev/full")
    with run_log() as file_log:
        file_log.setTarget(LogFile(path))
        for step in range(3):
            logging.getLogger("neo_model").info("step %d", step)
    said = capsys.readouterr().err.splitlines()
    warning = f"warning: {path}: cannot be written (No space left on device); the run goes on"
    assert said.count(warning) == 1 and [line for line in said if line != warning] == ["step 0", "step 1", "step 2"]


def test_row_37_a_terminal_that_cannot_be_written_is_no_reason_to_stop():
    with open("/dev/full", "w") as stream:
        line = ProgressLine(total=3, start=0, stream=stream)
        for _ in range(3):
            line.advance(loss=1.0)
        line.close()
        with contextlib.suppress(OSError):
            stream.close()  # Python's buffer still holds what the disk refused


@pytest.mark.slow
def test_row_37_a_full_disk_for_what_the_terminal_shows_ends_no_training(tiny, tmp_path):
    command = [sys.executable, "train.py", *tiny, "epochs=1", f"hydra.run.dir={tmp_path / 'run'}"]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, cwd=ROOT, stdout=full, stderr=full).returncode == 0
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()


def test_row_37_tensorboard_on_a_full_disk_warns_once_and_the_run_goes_on(tmp_path, caplog, monkeypatch):
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


def test_row_37_tensorboard_that_cannot_start_warns_once(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file in the way")
    logger = TensorBoardLogger()
    logger.start(tmp_path, CONFIG)
    logger.scalars(1, 0, {"train/loss": 1.0})
    logger.close()
    assert len(caplog.records) == 1


def test_row_37_wandb_without_a_network_warns_once_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_37_and_38_wandb_works_offline_and_a_resumed_run_keeps_its_id(tmp_path, monkeypatch):
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


class FakeWandb:
    """In place of ``wandb.init``: a server with one run, and a client that sends a row when the next begins.

    What is logged before the run's current step is ignored.
    """

    dir, offline = "/runs/one two/wandb/run-1/files", False

    def __init__(self, monkeypatch) -> None:
        self.ids, self.rows, self.is_reachable = [], {}, True
        monkeypatch.setattr("wandb.init", self.init)

    def init(self, *, id, settings, **_):
        import wandb

        if not id:
            raise wandb.errors.UsageError("Run ID cannot be empty")
        self.ids.append(id)
        self.settings = settings
        self.starting_step = self.current = max(self.rows, default=-1) + 1
        self.row = {}  # a killed process takes it with it
        return self

    def define_metric(self, name, *, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values, *, step):
        if step > self.current:
            self._send()
            self.current = step
        if step == self.current:
            self.row |= values

    def _send(self):
        if self.row:
            self.rows[self.current], self.row = self.row, {}

    def finish(self):
        if not self.is_reachable:
            assert 0 < self.settings.finish_timeout <= 120 and self.settings.finish_timeout_raises
            raise TimeoutError("Timed out finishing run.")
        self._send()

    def points(self, name: str) -> list[tuple]:
        """A curve as the page shows it."""
        return [(row["step"], row[name]) for row in self.rows.values() if name in row]


def test_row_37_wandb_that_loses_its_network_lets_the_run_end_and_says_how_to_upload_the_rest(
    tmp_path, monkeypatch, caplog
):
    server = FakeWandb(monkeypatch)
    logger = WandbLogger(project="neo_model")
    logger.start(tmp_path, CONFIG)
    server.is_reachable = False
    logger.close()
    logger.close()
    assert [record.getMessage() for record in caplog.records] == [
        "W&B could not upload everything within 60 s of the run's end; "
        "`wandb sync '/runs/one two/wandb/run-1'` uploads the rest"
    ]


@pytest.mark.parametrize("name", ["MailboxClosedError", "HandleAbandonedError"])
def test_row_37_wandb_whose_own_process_has_died_lets_the_run_end_with_one_warning(tmp_path, monkeypatch, caplog, name):
    mailbox = pytest.importorskip("wandb.sdk.mailbox")

    def finish():
        raise getattr(mailbox, name)

    server = FakeWandb(monkeypatch)
    monkeypatch.setattr(server, "finish", finish)
    logger = WandbLogger(project="neo_model")
    logger.start(tmp_path, CONFIG)
    logger.scalars(1, 0, {"train/loss": 1.0})
    logger.close()
    logger.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"W&B is switched off for the rest of the run: {name}"
    ]


def test_row_37_a_mistake_of_ours_in_a_logger_is_not_taken_for_the_outside_world(tmp_path, monkeypatch):
    server = FakeWandb(monkeypatch)
    logger = WandbLogger(project="neo_model")
    logger.start(tmp_path, CONFIG)
    monkeypatch.setattr(server, "log", {}.__getitem__)
    with pytest.raises(TypeError):
        logger.scalars(1, 0, {"train/loss": 1.0})


def test_row_37_wandb_without_a_limit_to_its_waiting_is_used_as_it_is(tmp_path, monkeypatch, caplog):
    class Older:
        def __init__(self, *, silent: bool, console: str, init_timeout: float) -> None: ...

    server = FakeWandb(monkeypatch)
    monkeypatch.setattr("wandb.Settings", Older)
    logger = WandbLogger(project="neo_model")
    logger.start(tmp_path, CONFIG)
    logger.scalars(1, 0, {"train/loss": 1.0})
    logger.close()
    assert caplog.records == [] and list(server.rows) == [2]


@pytest.mark.parametrize("fault", ["create .wandb_id.txt.*", "write .wandb_id.txt.*", "rename wandb_id.txt"])
def test_row_37_wandb_on_a_disk_that_is_full_once_is_back_after_a_resume(tmp_path, monkeypatch, caplog, fault):
    server = FakeWandb(monkeypatch)
    with monkeypatch.context() as patch:
        FailingDisk(tmp_path, Operation(fault, 1), setattr=patch.setattr)
        logger = WandbLogger(project="neo_model")
        logger.start(tmp_path, CONFIG)
        logger.scalars(1, 0, {"train/loss": 1.0})
        logger.close()
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("W&B is switched off for the rest of the run: ") and "wandb_id.txt: cannot be written" in said
    assert os.listdir(tmp_path) == [] and server.ids == []
    for _ in range(2):
        logger = WandbLogger(project="neo_model")
        logger.start(tmp_path, CONFIG, Rewound(2, []))
        logger.scalars(2, 0, {"train/loss": 1.0})
        logger.close()
    assert len(caplog.records) == 1 and len(server.ids) == 2
    assert server.ids == [(tmp_path / "wandb_id.txt").read_text()] * 2


@pytest.mark.parametrize("left", [b"", b"0123456789a\xff", b"0123456789", b"no/id\0"])
def test_row_37_a_wandb_id_that_a_bad_disk_has_emptied_or_spoilt_is_replaced(tmp_path, monkeypatch, caplog, left):
    server = FakeWandb(monkeypatch)
    (tmp_path / "wandb_id.txt").write_bytes(left)
    logger = WandbLogger(project="neo_model")
    logger.start(tmp_path, CONFIG, Rewound(2, []))
    logger.scalars(2, 0, {"train/loss": 1.0})
    logger.close()
    assert caplog.records == [] and list(server.rows) == [4]
    assert server.ids == [(tmp_path / "wandb_id.txt").read_text()] and len(server.ids[0]) == 12


def wandb_run(tmp_path, resumed: Rewound | None) -> WandbLogger:
    logger = WandbLogger(project="neo_model")
    logger.start(tmp_path, CONFIG, resumed)
    return logger


def test_row_38_wandb_of_a_run_stopped_while_it_evaluated_gets_the_evaluation_after_the_resume(tmp_path, monkeypatch):
    server, picture = FakeWandb(monkeypatch), [np.zeros((8, 8, 3), np.uint8)]
    stopped = wandb_run(tmp_path, None)
    for step in (2, 4):
        stopped.scalars(step, step / 4, {"train/loss": 1 / step})
    stopped.histograms(4, {"matched_iou/last": np.array([0.5])})
    stopped.close()
    resumed = wandb_run(tmp_path, Rewound(5, []))
    resumed.scalars(4, 1.0, {"val/AP": 0.5})
    resumed.scalars(4, 1.0, {"val_class_AP/cat": 0.25})
    resumed.precision_curves(4, {"val_precision/cat": np.linspace(1, 0, 101)})
    resumed.images(4, "val", picture)
    resumed.scalars(4, 1.2, {"train/skipped": 1.0})
    resumed.images(5, "train", picture)
    resumed.scalars(6, 1.5, {"train/loss": 1 / 6})
    resumed.close()
    assert [row["step"] for row in server.rows.values()] == [2, 4, 4, 5, 6]
    evaluation = list(server.rows.values())[2]
    assert (evaluation["val/AP"], evaluation["val_class_AP/cat"]) == (0.5, 0.25)
    assert evaluation.keys() >= {"val", "val_precision", "train/skipped"}
    assert server.points("train/loss") == [(2, 1 / 2), (4, 1 / 4), (6, 1 / 6)]
    assert [step for step, _ in server.points("train")] == [5]


@pytest.mark.parametrize("saved_at", [4, 2])  # an older checkpoint, too, from which the evaluation is come to again
def test_row_38_wandb_of_a_run_that_could_not_save_its_evaluation_has_it_once(tmp_path, monkeypatch, saved_at):
    server, metrics, picture = FakeWandb(monkeypatch), MetricsFile(tmp_path), [np.zeros((8, 8, 3), np.uint8)]

    def train_and_evaluate(logger: WandbLogger, steps: tuple[int, ...], ap: float) -> None:
        for step in steps:
            metrics.scalars(step, step / 4, {"train/loss": 1 / step})
            logger.scalars(step, step / 4, {"train/loss": 1 / step})
        metrics.scalars(4, 1.0, {"val/AP": ap})
        logger.scalars(4, 1.0, {"val/AP": ap})
        logger.scalars(4, 1.0, {"val_class_AP/cat": ap})
        logger.precision_curves(4, {"val_precision/cat": np.linspace(1, 0, 101)})
        logger.images(4, "val", picture)

    ended = wandb_run(tmp_path, None)
    train_and_evaluate(ended, (2, 4), 0.5)
    ended.close()
    for _ in range(2):  # the first of these resumes does not come as far as to evaluate
        resumed = wandb_run(tmp_path, rewind(metrics, saved_at, saved_at / 4, unevaluated=saved_at == 4))
    train_and_evaluate(resumed, () if saved_at == 4 else (4,), 0.75)
    resumed.images(5, "train", picture)  # of the next epoch, which none has seen
    resumed.scalars(8, 2.0, {"val/AP": 0.875})
    resumed.close()
    assert server.points("val/AP") == [(4, 0.5), (8, 0.875)]
    assert [step for step, _ in server.points("val_class_AP/cat")] == [4] == [step for step, _ in server.points("val")]
    assert [step for step, _ in server.points("train")] == [5]
    assert [(r["step"], r["val/AP"]) for r in records(tmp_path) if "val/AP" in r] == [(4, 0.75)]


def test_row_38_wandb_is_given_again_what_a_killed_process_took_with_it(tmp_path, monkeypatch):
    server, metrics = FakeWandb(monkeypatch), MetricsFile(tmp_path)

    def record(logger: WandbLogger, step: int, values: dict[str, float]) -> None:
        metrics.scalars(step, step / 4, values)
        logger.scalars(step, step / 4, values)

    def train_and_evaluate(logger: WandbLogger, steps: tuple[int, ...]) -> None:
        for step in steps:
            record(logger, step, {"train/loss": 1 / step, "train/undefined": math.nan})
        record(logger, steps[-1], {"val/AP": steps[-1] / 8})

    train_and_evaluate(wandb_run(tmp_path, None), (1, 2, 3, 4))
    assert server.points("val/AP") == []  # as is the case with W&B's own client
    del server.rows[6], server.rows[8]  # which sends every 15 s, too
    resumed = wandb_run(tmp_path, rewind(metrics, 4, 1.0))
    train_and_evaluate(resumed, (5, 6))
    resumed.close()
    assert server.points("train/loss") == [(step, 1 / step) for step in (1, 2, 3, 4, 5, 6)]
    assert server.points("val/AP") == [(4, 0.5), (6, 0.75)]
    assert [step for step, _ in server.points("epoch")] == [1, 2, 3, 4, 4, 5, 6, 6]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("end", ["killed", "closed"])
def test_row_38_the_folders_of_wandb_offline_hold_each_point_once_together(tmp_path, monkeypatch, end):
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # of another test: a process of W&B that outlives the killed one
    life = """if True:
        import os, signal, sys
        from pathlib import Path
        from neo_model.engine.metrics_file import MetricsFile
        from neo_model.engine.wandb_logger import WandbLogger

        run_dir, end, saved_at, *steps = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
        metrics, logger, rewound = MetricsFile(run_dir), WandbLogger(project="neo_model", mode="offline"), None
        if saved_at:
            rewound = metrics.rewound(saved_at, saved_at)
            metrics.keep(rewound)
        logger.start(run_dir, {}, rewound)
        for step in steps:
            for name in ("train/loss", "val/AP"):
                metrics.scalars(step, step, {name: step})
                logger.scalars(step, step, {name: step})
        if end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        logger.close()
        """
    for its_end, saved_at, steps in ((end, 0, (1, 2, 3)), (end, 2, (3, 4)), ("closed", 3, (4, 5))):
        arguments = [str(tmp_path), its_end, str(saved_at), *map(str, steps)]
        done = subprocess.run([sys.executable, "-c", life, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == (-signal.SIGKILL if its_end == "killed" else 0), done.stderr
        time.sleep(1)  # folders are named by the second
    *_, last = folders = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    records_of_ended(last)
    rows = [row for path in folders for row in rows_of(path)]
    for name in ("train/loss", "val/AP"):
        assert [(row["step"], row[name]) for row in rows if name in row] == [(step, step) for step in (1, 2, 3, 4, 5)]


def test_row_38_a_spoilt_file_of_wandb_is_read_up_to_where_it_is_spoilt(tmp_path):
    folder = tmp_path / "wandb" / "run-1-ab"
    folder.mkdir(parents=True)
    head, entry = b":W&B\0\0\0", b"\0\0\0\0\x03\0\x01"
    broken = (head + bytes(9), head + entry + b"\xff", head + entry + b"\xff\xff\xff")
    for content in (b"", head[:4], b"no W&B file", *broken):
        (folder / "run-ab.wandb").write_bytes(content)
        assert last_row(tmp_path, "ab") == -1


def test_row_38_wandb_of_a_killed_run_has_each_repeated_step_once(tmp_path, monkeypatch):
    server = FakeWandb(monkeypatch)
    for resumed, steps in ((None, (2, 4, 6, 8)), (Rewound(5, []), (6, 8, 10))):
        logger = wandb_run(tmp_path, resumed)
        for step in steps:
            logger.scalars(step, step / 8, {"train/loss": 1 / step})
            if step == 8:
                logger.histograms(8, {"matched_iou/last": np.array([0.5])})
        logger.close()
    assert server.points("train/loss") == [(step, 1 / step) for step in (2, 4, 6, 8, 10)]
    assert [step for step, _ in server.points("matched_iou/last")] == [8]


def test_row_37_a_wandb_run_that_is_switched_off_is_not_the_one_of_the_next_job(tmp_path, monkeypatch, caplog):
    import wandb

    server = FakeWandb(monkeypatch)
    ended = []
    monkeypatch.setattr(server, "finish", lambda: ended.append(server.ids[-1]))
    with monkeypatch.context() as patch:
        patch.setattr(server, "log", refuse_with(wandb.errors.CommError("no space")))
        logger = wandb_run(tmp_path, None)
        logger.scalars(1, 0, {"train/loss": 1.0})
    logger.close()
    assert ended == server.ids and len(caplog.records) == 1


def refuse_with(error: Exception):
    def refuse(*_, **__):
        raise error

    return refuse


def test_row_38_tensorboard_of_a_resumed_run_has_each_step_once(tmp_path):
    for resumed, steps, factor in ((None, (1, 2, 3, 4), 1), (Rewound(3, []), (3, 4, 5), 10)):
        logger = TensorBoardLogger()
        logger.start(tmp_path, CONFIG, resumed)
        for step in steps:
            logger.scalars(step, 0, {"train/loss": factor * step})
        logger.close()
    points = [(e.step, e.value) for e in read_tensorboard(tmp_path).Scalars("train/loss")]
    assert points == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]


def test_row_38_tensorboard_keeps_its_order_where_the_clock_has_gone_back(tmp_path, monkeypatch):
    for life, hours in enumerate((0, 3, 2, -1)):
        resumed = Rewound(life + 1, []) if life else None
        with monkeypatch.context() as patch:
            now = time.time() + 3600 * hours
            patch.setattr("time.time", lambda now=now: now)
            logger = TensorBoardLogger()
            logger.start(tmp_path, CONFIG, resumed)
            for step in range(life + 1, 6):
                logger.scalars(step, 0, {"train/loss": life})
            logger.close()
    points = [(e.step, e.value) for e in read_tensorboard(tmp_path).Scalars("train/loss")]
    assert points == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 3)]


def test_row_38_tensorboard_keeps_an_evaluation_that_a_skipped_step_followed(tmp_path):
    metrics, logger = MetricsFile(tmp_path), TensorBoardLogger()
    logger.start(tmp_path, CONFIG)
    for epoch, values in ((1.0, {"val/AP": 0.5}), (1.25, {"train/skipped": 1.0})):
        metrics.scalars(4, epoch, values)
        logger.scalars(4, epoch, values)
    logger.images(4, "val", [np.zeros((8, 8, 3), np.uint8)])
    logger.close()
    resumed = TensorBoardLogger()
    resumed.start(tmp_path, CONFIG, rewind(metrics, 4, 1.0))
    resumed.close()
    assert [event.step for event in read_tensorboard(tmp_path).Images("val/0")] == [4]


@pytest.mark.parametrize("line", ['{"step": "4", "epoch": 0.5}', '{"step": 1, "epoch": "a"}', '{"step": [1]}', "[1]"])
def test_row_38_a_line_of_other_types_is_dropped(tmp_path, line):
    metrics = MetricsFile(tmp_path)
    metrics.scalars(1, 0.5, {"train/loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    rewind(metrics, 1, 0.5)
    assert [record["train/loss"] for record in records(tmp_path)] == [1.0]


def test_row_38_a_resumed_run_writes_no_point_twice_and_survives_a_half_written_line(tmp_path):
    first = MetricsFile(tmp_path)
    for step in (1, 2, 3, 4):
        first.scalars(step, 0, {"train/loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "ep')
    second = MetricsFile(tmp_path)
    rewind(second, 2, 0)
    for step in (3, 4, 5):
        second.scalars(step, 0, {"train/loss": 10 * step})
    assert [(r["step"], r["train/loss"]) for r in records(tmp_path)] == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
