"""python train.py -m: jobs in named folders, their results, and failures that stay their own."""

import json
import shlex
import signal
from pathlib import Path

import pytest

from neo_model.config.compose import parse_overrides
from neo_model.config.sweep import job_folder
from neo_model.engine.progress import Interrupted


@pytest.fixture
def short(tiny):
    """A sweep's job of one step at a resolution of the user's choice."""
    few = ["data.num_train=4", "data.num_val=2", "limit_batches=1"]
    return [override for override in tiny if not override.startswith("data.resolution")] + few


def results(folder: Path) -> list[dict]:
    return sorted((json.loads(path.read_text()) for path in folder.glob("*/result.json")), key=lambda r: r["job"])


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
        assert f"  {result['folder']} " in outcome.out
    assert outcome.out.count(" AP 0.") == 4
    assert not list(tmp_path.glob("outputs/train*"))


def test_ctrl_c_ends_the_sweep_and_keeps_what_is_finished(command, short, monkeypatch):
    def interrupt_at_seed_2(config, open_folder):
        if config.seed == 2:
            raise Interrupted(signal.SIGINT)
        return 0.25

    monkeypatch.setattr("neo_model.config.jobs.train_job", interrupt_at_seed_2)
    outcome = command("train", "-m", "seed=1,2,3", *short, "data/resolution=480x270", "hydra.sweep.dir=sweep")
    assert outcome.code == 130
    assert [result["AP"] for result in results(Path("sweep"))] == [0.25]
    assert "0_seed-1  AP 0.2500" in Path("sweep/results.txt").read_text()


def test_nothing_starts_when_one_combination_is_wrong(command, short, tmp_path):
    error = command("train", "-m", "optim.lr=1e-4,fast", *short, "hydra.sweep.dir=sweep").error
    assert "optim.lr: 'fast'" in error
    assert not (tmp_path / "sweep").exists()


def test_folder_names_hold_nothing_to_quote():
    name = job_folder(3, "data/resolution=480x270,weights=/disk/a b/best.pt,+optim.lr=1e-4,schedule.milestones=[2,5]")
    assert name == "3_resolution-480x270_weights-diskabbest.pt_lr-1e-4_milestones-2_5"
    assert job_folder(0, "optim.lr=5e-05,data/resolution=480x270") == "0_lr-5e-05_resolution-480x270"
    assert shlex.split(name) == [name] and parse_overrides([f"ckpt=a/{name}/b.pt"])[0].value() == f"a/{name}/b.pt"
    assert len(job_folder(0, "optim.betas=" + "9" * 300)) <= 100
