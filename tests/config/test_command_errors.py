"""Bad input on the command line: one line, exit code 2, and nothing left behind or lost."""

import json
import os
from pathlib import Path

import pytest

from neo_model.utils import UserError
from tests.config.conftest import CPU, SIZE


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.fixture
def refused(command):
    """The error of a command, once it has proved to leave every file and folder as it was."""

    def run(job: str, *arguments: str) -> str:
        before = files(), sorted(os.walk("."))
        error = command(job, *arguments).error
        assert (files(), sorted(os.walk("."))) == before
        return error

    return run


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model=null"], ["model=null: there is no such choice"]),
        (["experiments=null"], ["experiments=null: there is no such choice"]),
        (["~model"], ["write model=rtdetr_hgnetv2_l|"]),
        (["~data", "data.root=x"], ["error: ~data: leaves out what every run needs; write data=coco|custom|shapes\n"]),
        (["hydra.run.dir="], ["hydra.run.dir: is empty"]),
        (["hardware=3090"], ["hardware=3090", "did you mean rtx3090?"]),
        (["data/resolution=1024x576"], ["write data.resolution.width=1024 data.resolution.height=576"]),
        (["data=custom"], ["data.root: is not given"]),
        (["data=custom", "data.root=absent"], ["data=custom: missing absent/instances_train.json", "correct"]),
        (["epochs"], ["epochs: is not understood", "write key=value"]),
        (["--epochs=3"], ["--epochs=3", "without dashes"]),
        (["--config-name=eval"], ["--config-name: is not used here"]),
        (["resume=absent"], ["resume: absent holds no checkpoints/last.pt"]),
        (["hydra.callbacks.mine._target_=os.system"], ["is refused", "hydra.run.dir"]),
        (["-m", "resume=a,b"], ["resume: does not go with -m"]),
        (["-m", "seed=1,2", "--cfg", "job"], ["--cfg: does not go with --multirun; give one of them"]),
        (["--info", "--cfg", "job"], ["--info: does not go with --cfg"]),
        (["--resolve"], ["--resolve: is for --cfg"]),
    ],
)
def test_train_refuses(refused, arguments, parts):
    error = refused("train", *arguments)
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["ckpt: is not given; add ckpt=VALUE"]),
        (["ckpt=absent.pt"], ["absent.pt: there is no such file"]),
        (["ckpt=."], [".: there is no such file"]),
        (["ckpt={best}", "conf_threshold=3"], ["conf_threshold: 3 is not a number between 0 and 1"]),
        (["ckpt={best}", "conf_treshold=0.3"], ["conf_treshold: there is no such key", "did you mean conf_threshold"]),
        (["ckpt={best}", "data.resolution=640x360"], ["data.resolution", "write data/resolution=640x360"]),
        (["ckpt={best}", "data/resolution=641x360"], ["data/resolution=641x360", "did you mean 640x360"]),
        (["ckpt={best}", "experiments=overfit"], ["experiments=overfit: is a recipe for whole runs"]),
        (["ckpt={best}", "data=coco", "overfit=0"], ["data=coco: missing", "neo_model.data.prepare"]),
        (["-m", "ckpt={best},x"], ["--multirun: is for train.py"]),
    ],
)
def test_eval_refuses(refused, trained, arguments, parts):
    best = trained / "checkpoints" / "best.pt"
    error = refused("eval", *(argument.format(best=best) for argument in arguments))
    assert all(part in error for part in parts), error


def custom(root: Path) -> list[str]:
    return ["model=tiny", "data=custom", f"data.root={root}", *SIZE, *CPU, "logger=none", "epochs=1"]


def test_a_missing_image(refused, make_coco, tmp_path):
    root = make_coco("mine", ["crate"])
    (root / "images" / "2.png").unlink()
    error = refused("train", *custom(root))
    assert "2.png" in error and str(root / "images") in error


def test_a_missing_or_broken_annotation_file(refused, make_coco, tmp_path):
    root = make_coco("mine", ["crate"])
    annotations = root / "instances_val.json"
    annotations.write_text(annotations.read_text()[:100])
    assert f"error: {annotations}: " in refused("train", *custom(root))
    annotations.unlink()
    assert f"data=custom: missing {annotations};" in refused("train", *custom(root))


def test_an_empty_folder(refused, make_coco, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "missing empty/instances_train.json" in refused("train", "data=custom", "data.root=empty")
    assert "resume: empty holds no checkpoints/last.pt" in refused("train", "resume=empty")
    root = make_coco("mine", ["crate"])
    for image in (root / "images").iterdir():
        image.unlink()
    assert "0.png" in refused("train", *custom(root))


def test_training_and_validation_of_different_classes(refused, make_coco):
    root, other = make_coco("mine", ["crate"]), make_coco("other", ["ball"])
    error = refused("train", *custom(root), f"data.val_annotations={other}/instances_val.json")
    assert "'crate' and 'ball'" in error


@pytest.mark.parametrize("folder", ["file", "file/run", "/proc/none/run"])
def test_a_folder_that_cannot_be_made(refused, tiny, trained, tmp_path, folder):
    (tmp_path / "file").write_text("mine")
    assert f"error: {folder}: " in refused("train", *tiny, f"hydra.run.dir={folder}")
    assert f"error: {folder}: " in refused("train", "-m", "seed=1,2", *tiny, f"hydra.sweep.dir={folder}")
    assert f"error: {folder}: " in refused("eval", f"ckpt={trained}/checkpoints/best.pt", f"hydra.run.dir={folder}")


def test_a_folder_that_may_not_be_looked_into(command, tiny, close):
    close("closed")
    error = command("train", *tiny, "hydra.run.dir=closed").error
    assert error.startswith("error: closed/config.yaml: cannot be read (Permission denied); correct the permissions")


def test_a_folder_that_holds_a_run(refused, command, tiny):
    assert command("train", *tiny, "limit_batches=1", "hydra.run.dir=run").code == 0
    error = refused("train", *tiny, "hydra.run.dir=run")
    assert "run: already holds a run; go on with it by resume=run" in error
    assert json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 1


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(command, tiny, monkeypatch):
    def end_at_once(runner):
        raise UserError("a test", "ends it", "mend nothing")

    arguments = [*tiny, "limit_batches=1", "hydra.run.dir=run"]
    with monkeypatch.context() as patch:
        patch.setattr("neo_model.engine.Runner.run", end_at_once)
        assert command("train", *arguments).code == 2
    said = "run: already holds a run; add resume=auto to start it again, or choose another folder"
    assert command("train", *arguments).error == f"error: {said}\n"
    said = "run holds no checkpoints/last.pt; repeat the command that started it, with hydra.run.dir=run resume=auto"
    assert command("train", "resume=run").error == f"error: resume: {said}\n"
    assert command("train", *arguments, "resume=auto").code == 0
    assert json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 1
