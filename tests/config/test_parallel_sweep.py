"""Sweeps by the optional plugins: Optuna's search, and jobs beside each other."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from neo_model.config.problems import from_hydra
from neo_model.engine.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]

needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="needs the extra [optuna]")
needs_launchers = pytest.mark.skipif(
    find_spec("joblib") is None or find_spec("submitit") is None, reason="needs the extra [launchers]"
)


@pytest.fixture
def short(tiny):
    """A job of one step."""
    return [*tiny, "data.num_train=4", "data.num_val=2", "limit_batches=1"]


def sweep(folder: Path, *arguments: str) -> subprocess.Popen:
    """python train.py -m into ``folder``, in a group of processes of its own."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", f"hydra.sweep.dir={folder}", *arguments]
    return subprocess.Popen(
        command, cwd=folder.parent, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def rows_of(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("hydra/sweeper/optuna", "hydra/sweeper=optuna: needs the extra [optuna]; pip install -e '.[optuna]'"),
        ("hydra/launcher/joblib", "hydra/launcher=joblib: needs the extra [launchers]; pip install -e '.[launchers]'"),
    ],
)
def test_a_plugin_that_is_not_installed_is_named_with_its_extra(missing, said):
    error = MissingConfigException(message="missing", missing_cfg_file=missing, options=["basic"])
    assert str(from_hydra(error, OmegaConf.create(), [])) == said


@needs_launchers
@pytest.mark.parametrize("sign", ["", "+"])
def test_a_misspelt_key_of_a_launcher_that_takes_any(command, tmp_path, sign):
    error = command("train", "-m", "seed=1,2", "hydra/launcher=joblib", f"{sign}hydra.launcher.n_job=2").error
    assert "hydra.launcher.n_job: there is no such key; did you mean hydra.launcher.n_jobs?" in error
    assert not list(tmp_path.iterdir())


@needs_optuna
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hydra.sweeper.direction=foo", "Please set either 'minimize' or 'maximize' to direction."),
        ("hydra.sweeper.storage='sqlite://host/x'", "Invalid SQLite URL: sqlite://host/x"),
        ("+hydra.sweeper.sampler.sed=1", "TPESampler.__init__() got an unexpected keyword argument 'sed'"),
    ],
)
def test_a_value_that_only_optuna_can_refuse_is_one_line(command, monkeypatch, override, said):
    monkeypatch.setattr("neo_model.config.sweep_checks.check_training", lambda config, problems: None)
    error = command("train", "-m", "hparams_search=rates", override).error
    assert error.startswith(f"error: hydra.sweeper or hydra.launcher: {said}") and "; correct its keys" in error


@pytest.mark.slow
@needs_optuna
def test_optuna_searches_and_a_second_start_runs_only_what_is_missing(command, short, monkeypatch):
    """Without any training: AP is highest at a rate of 1e-3."""
    rates = []

    def train(config, open_folder, resume):
        rates.append(config.optim.lr)
        return 1 / (1 + abs(config.optim.lr - 1e-3) * 1000)

    monkeypatch.setattr("neo_model.config.jobs.train_job", train)
    search = ["hparams_search=rates", "hydra.sweep.dir=sweep", "hydra.sweeper.sampler.n_startup_trials=2", *short]
    outcome = command("train", "-m", *search, "hydra.sweeper.n_trials=4")
    assert outcome.code == 0, outcome.err
    assert len(rates) == 4 and all(1e-5 <= rate <= 3e-3 for rate in rates) and len(set(rates)) == 4
    best = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert best["best_params"]["optim.lr"] == min(rates, key=lambda rate: abs(rate - 1e-3))
    assert {len(path.parent.name) for path in Path("sweep").glob("*/result.json")} < set(range(20, 80))
    again = command("train", "-m", *search, "hydra.sweeper.n_trials=6", "sweep.skip_existing=true")
    assert again.code == 0 and len(rates) == 6 and len(rows_of(Path("sweep"))) == 6


@pytest.mark.slow
@needs_optuna
def test_a_search_goes_on_after_a_failed_job_and_takes_no_zip(command, short, monkeypatch):
    ran = []

    def fail_at_first(config, open_folder, resume):
        ran.append(config.optim.lr)
        if len(ran) == 1:
            raise RuntimeError("for once")
        return 0.5

    monkeypatch.setattr("neo_model.config.jobs.train_job", fail_at_first)
    search = ["hparams_search=rates", "hydra.sweeper.n_trials=3", *short]
    assert command("train", "-m", *search, "hydra.sweep.dir=sweep").code == 1
    assert [row["status"][:6] for row in rows_of(Path("sweep"))] == ["finish", "finish", "failed"]
    assert "sweep.zip: does not go with a search" in command("train", "-m", *search, "sweep.zip=[optim.lr]").error


@needs_optuna
def test_no_job_of_a_search_starts_when_a_later_choice_is_wrong(command, short, tmp_path):
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweep.dir=sweep"]
    chosen = [override for override in short if not override.startswith("model")]
    outcome = command("train", "-m", *search, *chosen, "model=choice(tiny,typo)")
    assert outcome.code == 2 and outcome.error.startswith("error: model=typo: there is no such choice; ")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
@needs_optuna
@needs_launchers
def test_a_real_search_with_two_jobs_at_once_by_submitit(short, tmp_path):
    folder = tmp_path / "sweep"
    search = ["hparams_search=rates", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]
    started = sweep(folder, *search, "hydra/launcher=submitit_local", *short)
    out, _ = started.communicate(timeout=240)
    assert started.returncode == 0, out
    rows = rows_of(folder)
    assert {row["job"] for row in rows} == {"0", "1"} and all(row["status"] == "finished" for row in rows)
    assert "best: python train.py optim.lr=" in out.splitlines()[-1]


@pytest.mark.slow
@needs_launchers
def test_joblib_runs_only_what_a_killed_sweep_lacks(command, short, tmp_path, monkeypatch):
    folder, arguments = tmp_path / "sweep", ["seed=1,2,3", *short]
    monkeypatch.setattr("neo_model.config.jobs.train_job", lambda *_, **__: 0.5)
    assert command("train", "-m", *arguments, f"hydra.sweep.dir={folder}").code == 0
    for job in folder.glob("[12]_*/result.json"):  # as a killed job leaves it
        job.write_text(json.dumps(json.loads(job.read_text()) | {"status": "running", "AP": None, "seconds": None}))
    (folder / "3_seed-9").mkdir()
    (folder / "3_seed-9" / "result.json").write_text('{"job": 3, "overrides": ["seed=9"], "error": "of another command"}')
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweep.skip_existing=true"]
    started = sweep(folder, *arguments, *launcher)
    out, _ = started.communicate(timeout=240)
    assert started.returncode == 0, out
    rows = {row["job"]: row for row in rows_of(folder)}
    assert len(rows) == 4 and all(rows[job]["status"] == "finished" for job in "012")
    assert [line for line in out.splitlines() if "is there already" in line] == ["job 0_seed-1: is there already"]
    assert rows["0"]["best_epoch"] == "" and rows["1"]["best_epoch"] == rows["2"]["best_epoch"] == "1.0"


@pytest.mark.slow
@needs_launchers
def test_a_signal_to_the_sweep_alone_stops_joblibs_jobs_which_save(tiny, tmp_path):
    folder = tmp_path / "sweep"
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    started = sweep(folder, "seed=1,2,3", *launcher, *tiny, "epochs=10000")
    try:
        logs, deadline = {}, time.monotonic() + 120
        while len(logs) < 2 or not all(logs.values()):
            assert started.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
            logs = {path.parent: path.read_text().count("\n") for path in folder.glob("*/metrics.jsonl")}
        started.send_signal(signal.SIGTERM)
        out, _ = started.communicate(timeout=20)
        assert started.returncode == 143, out
        assert out.count("stopped: SIGTERM; waiting for the jobs to save") == 1 and "Traceback" not in out, out
        deadline = time.monotonic() + 5  # joblib's trackers end once the jobs have
        while left := processes_in_group(started.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    results = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    assert [result["status"] for result in results] == ["interrupted"] * 2  # and no further job has begun
    for run_dir in logs:
        last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
        assert read_checkpoint(run_dir / "checkpoints" / "last.pt")["progress"]["step"] >= last["step"]


def processes_in_group(group: int) -> list[str]:
    """The command lines of those that are alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(status.with_name("cmdline").read_text().replace("\0", " "))
    return found
