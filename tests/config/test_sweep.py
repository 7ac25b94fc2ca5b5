"""python train.py -m: jobs in named folders, their results, and failures that stay their own."""

import csv
import gc
import json
import os
import shlex
import signal
import weakref
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from neo_model.config.compose import parse_overrides
from neo_model.config.sweep_folders import job_folder
from neo_model.config.sweep_job import report
from neo_model.config.zipping import split_jobs
from neo_model.engine import Runner
from neo_model.engine.progress import Interrupted
from neo_model.utils import UserError
from tests.engine.test_run_lock import holder  # noqa: F401


@pytest.fixture
def short(tiny):
    """A sweep's job of one step at a resolution of the user's choice."""
    few = ["data.num_train=4", "data.num_val=2", "limit_batches=1"]
    return [override for override in tiny if not override.startswith("data.resolution")] + few


def results(folder: Path) -> list[dict]:
    return sorted((json.loads(path.read_text()) for path in folder.glob("*/result.json")), key=lambda r: r["job"])


@pytest.mark.slow
def test_four_jobs_train_in_named_folders(command, short, tmp_path):
    outcome = command("train", "-m", "optim.lr=5e-5,1e-4", "data/resolution=480x270,640x360", *short)
    assert outcome.code == 0, outcome.err
    (folder,) = tmp_path.glob("outputs/sweep/*")
    jobs = [path for path in folder.iterdir() if path.is_dir()]
    assert len(jobs) == 4
    seen = set()
    for path in jobs:
        config = (path / "config.yaml").read_text()
        rate, width = ("5.0e-05" if "lr: 5.0e-05" in config else "0.0001"), ("480" if "width: 480" in config else "640")
        assert f"lr-{float(rate)}" in path.name and f"resolution-{width}x" in path.name
        assert (path / "checkpoints" / "best.pt").is_file()
        seen.add((rate, width))
    assert len(seen) == 4
    for result in results(folder):
        lines = [json.loads(line) for line in (folder / result["folder"] / "metrics.jsonl").read_text().splitlines()]
        assert result["AP"] == pytest.approx(lines[-1]["val/AP"])
        assert result["latency_ms"] > 0 and result["seconds"] > 0
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert {(row["optim.lr"], row["data/resolution"]) for row in rows} == {
        (rate, size) for rate in ("5e-05", "0.0001") for size in ("480x270", "640x360")
    }
    assert [float(row["AP"]) for row in rows] == sorted((float(row["AP"]) for row in rows), reverse=True)
    assert all(float(row["peak_memory_gib"]) > 0 and row["status"] == "finished" for row in rows)
    assert outcome.out.splitlines()[-1].startswith("best: python train.py optim.lr=")
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("outputs/train*"))


@pytest.mark.slow
def test_ctrl_c_ends_the_sweep_and_keeps_what_is_finished(command, short, monkeypatch):
    def interrupt_at_seed_2(config, open_folder, resume):
        if config.seed == 2:
            raise Interrupted(signal.SIGINT)
        return 0.25

    monkeypatch.setattr("neo_model.config.jobs.train_job", interrupt_at_seed_2)
    outcome = command("train", "-m", "seed=1,2,3", *short, "data/resolution=480x270", "hydra.sweep.dir=sweep")
    assert outcome.code == 130
    assert [(result["AP"], result["status"]) for result in results(Path("sweep"))] == [
        (0.25, "finished"), (None, "interrupted")
    ]  # fmt: skip
    assert outcome.out.splitlines()[-1].startswith("best: python train.py seed=1 ")
    assert "0.2500" in Path("sweep/results.md").read_text()


@pytest.mark.slow
def test_skip_existing_runs_what_failed_or_never_ran(command, short, monkeypatch):
    ran = []

    def fail_at_seed_2(config, open_folder, resume):
        ran.append(config.seed)
        if config.seed == 2 and len(ran) == 2:
            raise RuntimeError("for once")
        return config.seed / 10

    monkeypatch.setattr("neo_model.config.jobs.train_job", fail_at_seed_2)
    place = [*short, "data/resolution=480x270", "hydra.sweep.dir=sweep"]
    assert command("train", "-m", "seed=1,2", *place).code == 1
    assert "sweep.skip_existing=true" in command("train", "-m", "seed=1,2", *place).error
    outcome = command("train", "-m", "seed=0,1,2,3", *place, "sweep.skip_existing=true")
    assert outcome.code == 0, outcome.err
    assert ran == [1, 2, 0, 2, 3]
    assert sorted(result["AP"] for result in results(Path("sweep"))) == [0.0, 0.1, 0.2, 0.3]


def test_skip_existing_leaves_the_runs_of_other_overrides_alone(command, short, monkeypatch):
    """What all jobs of a command share is not in their folders' names."""
    monkeypatch.setattr("neo_model.config.jobs.train_job", lambda config, open_folder, resume: open_folder() and 0.25)
    place = [*short, "data/resolution=480x270", "hydra.sweep.dir=sweep", "sweep.skip_existing=true"]
    assert command("train", "-m", "seed=1", *place).code == 0
    finished = Path("sweep/0/result.json").read_text()
    assert command("train", "-m", "seed=1", *place, "epochs=10").code == 0
    assert Path("sweep/0/result.json").read_text() == finished
    assert sorted(result["folder"] for result in results(Path("sweep"))) == ["0", "0_2"]


def test_a_job_takes_no_folder_that_holds_a_run(command, short, monkeypatch):
    def train(config, open_folder, resume):
        assert not resume
        (open_folder() / "config.yaml").touch()
        return 0.25

    monkeypatch.setattr("neo_model.config.jobs.train_job", train)
    for name, file in (("0_seed-1", "checkpoints"), ("0_seed-1_2", "config.yaml"), ("1_seed-2", ".hydra")):
        Path("sweep", name, file).mkdir(parents=True)
    assert command("train", "-m", "seed=1,2", *short, "data/resolution=480x270", "hydra.sweep.dir=sweep").code == 0
    assert [result["folder"] for result in results(Path("sweep"))] == ["0_seed-1_3", "1_seed-2"]


def test_a_second_sweep_in_a_folder_is_refused_while_the_first_runs(command, short, holder):  # noqa: F811
    Path("sweep").mkdir()
    process = holder(Path("sweep"))
    place = [*short, "data/resolution=480x270", "hydra.sweep.dir=sweep", "sweep.skip_existing=true"]
    error = command("train", "-m", "seed=1,2", *place).error
    assert error.startswith(f"error: sweep: process {process.pid} on ")
    assert error.endswith("or choose another folder by hydra.sweep.dir=DIR\n")
    assert [path.name for path in Path("sweep").iterdir()] == ["training.lock"]


@pytest.mark.slow
def test_the_exit_code_is_that_of_the_commands_own_jobs(command, short, monkeypatch):
    def fail_at_seed_1(config, open_folder, resume):
        if config.seed == 1:
            raise RuntimeError("always")
        return 0.25

    monkeypatch.setattr("neo_model.config.jobs.train_job", fail_at_seed_1)
    place = [*short, "data/resolution=480x270", "hydra.sweep.dir=sweep", "sweep.skip_existing=true"]
    assert command("train", "-m", "seed=1", *place).code == 1
    assert command("train", "-m", "seed=2", *place).code == 0
    skipped = command("train", "-m", "seed=2", *place)
    assert skipped.code == 0 and "is there already" in skipped.err
    assert "failed: RuntimeError: always" in skipped.out  # the table is of all that the folder holds


def test_row_33_a_signal_between_trainings_is_told_of_and_the_job_says_so(command, short, monkeypatch):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    place = [*short, "data/resolution=480x270", "hydra.sweep.dir=sweep", "seed=1,2"]
    with monkeypatch.context() as patch:
        patch.setattr("neo_model.config.jobs.latency_of", stop)
        outcome = command("train", "-m", *place)
    assert outcome.code == 143 and outcome.err.splitlines()[-1] == "stopped: SIGTERM"
    (result,) = results(Path("sweep"))
    assert result["status"] == "interrupted" and result["seconds"] > 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert "interrupted" in Path("sweep/results.md").read_text()
    assert not Path("sweep/sweep.png").exists()  # it is time to go


@pytest.mark.slow
def test_an_interrupted_job_goes_on_where_it_stopped(command, short, monkeypatch):
    place = [*short, "data/resolution=480x270", "hydra.sweep.dir=sweep", "epochs=2", "seed=1,2"]
    trained = Runner._train_epoch

    def stop_in_epoch_2(self, stop, line):
        if self.progress.epoch == 1:
            raise Interrupted(signal.SIGINT)
        trained(self, stop, line)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "_train_epoch", stop_in_epoch_2)
        assert command("train", "-m", *place).code == 130
    outcome = command("train", "-m", *place, "sweep.skip_existing=true")
    assert outcome.code == 0, outcome.err
    for result in results(Path("sweep")):
        records = [json.loads(line) for line in Path("sweep", result["folder"], "metrics.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in records if "val/AP" in record] == [1, 2]


@pytest.fixture
def no_collector():
    """Python collects circles when it likes; here only when it is told to."""
    gc.disable()
    yield
    gc.enable()


class Trained:
    """Held by itself, as a runner and its parts hold each other."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("end", ["finished", "failed"])
def test_a_job_leaves_no_memory_to_the_next(command, short, monkeypatch, no_collector, end):
    left = []

    def train(config, open_folder, resume):
        if config.seed == 2:
            return float(left[0]() is None)
        model = Trained()
        left.append(weakref.ref(model))
        if end == "failed":
            raise UserError("data", "is wrong", "mend it")
        return 0.0

    monkeypatch.setattr("neo_model.config.jobs.train_job", train)
    command("train", "-m", "seed=1,2", *short, "data/resolution=480x270", "hydra.sweep.dir=sweep")
    assert [result["AP"] for result in results(Path("sweep"))] == [0.0 if end == "finished" else None, 1.0]


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), UserError("best.pt", "is damaged", "train again")])
def test_a_job_that_cannot_be_timed_is_trained_all_the_same(command, short, monkeypatch, error):
    def fail(config, path):
        raise error

    monkeypatch.setattr("neo_model.config.jobs.train_job", lambda config, open_folder, resume: 0.25)
    monkeypatch.setattr("neo_model.config.jobs.latency_of", fail)
    outcome = command("train", "-m", "seed=1", *short, "data/resolution=480x270", "hydra.sweep.dir=sweep")
    assert outcome.code == 0 and "Traceback" not in outcome.err
    (warning,) = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert warning.endswith(f": {error}")
    (result,) = results(Path("sweep"))
    assert (result["status"], result["AP"], result["latency_ms"]) == ("finished", 0.25, None)


def test_skip_existing_is_for_sweeps(command, short):
    assert "sweep.skip_existing: is for sweeps; add -m" in command("train", *short, "sweep.skip_existing=true").error
    error = command("train", "-m", "seed=1,2", *short, "sweep.skip_existing=maybe").error
    assert "sweep" in error and "true or false" in error


def test_skip_existing_needs_the_folder_of_an_earlier_sweep(command, short, tmp_path):
    error = command("train", "-m", "seed=1,2", *short, "sweep.skip_existing=true").error
    assert "sweep.skip_existing: " in error and "add hydra.sweep.dir=DIR" in error
    assert not list(tmp_path.glob("outputs/sweep/*"))


def test_zipped_keys_take_their_values_together():
    def jobs(keys: list[str], *overrides: str) -> list[list[str]]:
        return split_jobs(parse_overrides(list(overrides)), keys)

    given = ["optim.lr=1,2", "seed=1,2", "+hardware.batch_size=4,8", "epochs=3"]
    assert len(jobs([], *given)) == 8
    assert jobs(["optim.lr", "hardware.batch_size"], *given) == [
        [f"optim.lr={rate}", f"+hardware.batch_size={batch}", f"seed={seed}", "epochs=3"]
        for rate, batch in ((1, 4), (2, 8))
        for seed in (1, 2)
    ]
    with pytest.raises(UserError, match="sweep.zip: epochs has no values to take in turn"):
        jobs(["seed", "epochs"], *given)
    with pytest.raises(UserError, match="sweep.zip: seed has 2 values, optim.lr 3"):
        jobs(["seed", "optim.lr"], "seed=1,2", "optim.lr=1,2,3")


@pytest.mark.slow
def test_a_zipped_sweep_runs_its_jobs_and_no_others(command, short, monkeypatch):
    trained = []

    def train(config, open_folder, resume):
        trained.append((config.optim.lr, config.seed))
        return 0.5

    monkeypatch.setattr("neo_model.config.jobs.train_job", train)
    zipped = ["optim.lr=1e-4,2e-4", "seed=1,2", "data/resolution=480x270", "hydra.sweep.dir=sweep"]
    outcome = command("train", "-m", *short, *zipped, "sweep.zip=[optim.lr,seed]")
    assert outcome.code == 0, outcome.err
    assert trained == [(1e-4, 1), (2e-4, 2)]
    assert "sweep.zip" not in outcome.out.splitlines()[-1]
    assert "sweep.zip: 'seed'" in command("train", "-m", *short, *zipped, "sweep.zip=seed").error


def test_nothing_starts_when_one_combination_is_wrong(command, short, tmp_path):
    error = command("train", "-m", "optim.lr=1e-4,fast", *short, "hydra.sweep.dir=sweep").error
    assert "optim.lr: 'fast'" in error
    assert not (tmp_path / "sweep").exists()


@pytest.fixture
def launch(monkeypatch):
    """Replaces how Hydra's own launcher starts jobs; returns how it did."""
    monkeypatch.setattr("neo_model.config.sweep_checks.check_training", lambda config, problems: None)
    monkeypatch.setattr("neo_model.config.sweep_job.write_sweep_report", lambda folder, picture: [])
    monkeypatch.setattr("neo_model.config.sweep_job._train", lambda config, run_dir: {"AP": 0.5, "latency_ms": None})
    (launcher,) = (kind for kind in Plugins.instance().discover(Launcher) if kind.__name__ == "BasicLauncher")
    before = launcher.launch
    return lambda replacement: monkeypatch.setattr(launcher, "launch", replacement) or before


def refuse(*arguments, **options):
    raise ValueError("no such partition\nusage: ...")


def test_what_a_launcher_raises_before_the_first_job_is_one_line(command, launch):
    before = launch(lambda *arguments, **options: before(*arguments, **options) and refuse())
    with pytest.raises(ValueError, match="no such partition"):  # once there were jobs it may be about anything
        command("train", "-m", "seed=1", "hydra.sweep.dir=sweep")
    assert len(results(Path("sweep"))) == 1
    launch(refuse)
    error = command("train", "-m", "seed=1,2", "hydra.sweep.dir=sweep", "sweep.skip_existing=true").error
    assert error.startswith("error: hydra.sweeper or hydra.launcher: no such partition; correct its keys")


def test_an_error_of_ours_at_a_jobs_start_keeps_its_traceback(command, monkeypatch):
    monkeypatch.setattr("neo_model.config.sweep_checks.check_training", lambda config, problems: None)
    monkeypatch.setattr("neo_model.config.sweep_job.unused_folder", refuse)
    with pytest.raises(ValueError, match="no such partition"):
        command("train", "-m", "seed=1,2", "hydra.sweep.dir=sweep")


@pytest.mark.parametrize("debug", ["false", "true"])
def test_debug_shows_where_a_jobs_user_error_comes_from(command, short, monkeypatch, debug):
    def spoil(config, run_dir):
        raise UserError("disk", "is full", "make room")

    monkeypatch.setattr("neo_model.config.sweep_job._train", spoil)
    outcome = command("train", "-m", "seed=1,2", *short, "data/resolution=480x270", f"debug={debug}")
    assert outcome.code == 2
    jobs = outcome.err.split("\njob ")[1:]
    assert len(jobs) == 2 and all("error: disk: is full; make room" in job.splitlines() for job in jobs)
    assert all(("Traceback" in job and "in spoil" in job) == (debug == "true") for job in jobs)


def test_folder_names_hold_nothing_to_quote():
    name = job_folder(3, "data/resolution=480x270,weights=/disk/a b/best.pt,+optim.lr=1e-4,schedule.milestones=[2,5]")
    assert name == "3_resolution-480x270_weights-diskabbest.pt_lr-1e-4_milestones-2_5"
    assert job_folder(0, "optim.lr=5e-05,data/resolution=480x270") == "0_lr-5e-05_resolution-480x270"
    assert shlex.split(name) == [name] and parse_overrides([f"ckpt=a/{name}/b.pt"])[0].value() == f"a/{name}/b.pt"
    assert len(job_folder(0, "optim.betas=" + "9" * 300)) <= 100


def test_a_sweeps_report_removes_what_a_killed_one_has_left(tmp_path, monkeypatch):
    (tmp_path / ".results.csv.77.tmp").write_text("half")
    monkeypatch.setattr("neo_model.config.sweep_job.write_sweep_report", lambda folder, picture: [])
    report(tmp_path)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".results*"))
