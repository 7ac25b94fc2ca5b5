"""python train.py: what a run leaves behind and says."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neo_model.config import compose
from neo_model.config.compose import choices, compose_training, group_names
from neo_model.config.manual import EXAMPLES
from neo_model.config.validate import validate_training
from neo_model.engine import Runner
from neo_model.engine.progress import Interrupted
from neo_model.utils import UserError
from tests.config.conftest import CPU, SIZE

ROOT = Path(__file__).resolve().parents[2]


def records(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_train_py_from_another_folder_leaves_a_whole_run(tmp_path, tiny):
    arguments = [*tiny, "limit_batches=1", "logger=tensorboard"]
    ended = subprocess.run(
        [sys.executable, ROOT / "train.py", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (run_dir,) = tmp_path.glob("outputs/train/*")
    names = {path.name for path in run_dir.iterdir()}
    files = {"config.yaml", "data_findings.json", "metrics.jsonl", "train.log", "training.lock"}
    assert names == files | {"tensorboard", "checkpoints"}
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"last.pt", "best.pt"}
    assert any((run_dir / "tensorboard").iterdir())
    training, evaluation = records(run_dir)
    assert training["step"] == 1 and training["train/loss"] > 0
    assert evaluation["epoch"] == 1 and {"val/AP", "val/AP50"} <= evaluation.keys()
    relative = run_dir.relative_to(tmp_path)
    done, following = ended.stderr.splitlines()[-2:]
    assert done == f"done: {relative} reached AP {evaluation['val/AP']:.4f} at its best"
    assert following == f"next: python eval.py ckpt={relative}/checkpoints/best.pt"
    assert following in (run_dir / "train.log").read_text()
    assert os.listdir(tmp_path) == ["outputs"]


def test_the_run_folder_can_be_chosen_and_its_configuration_trains_again(command, tiny, tmp_path):
    outcome = command("train", *tiny, "limit_batches=1", "optim.lr=3e-4", "hydra.run.dir=mine/run")
    assert outcome.code == 0
    assert os.listdir(tmp_path) == ["mine"]
    saved = compose.OmegaConf.load("mine/run/config.yaml")
    assert saved.optim.lr == 3e-4
    validate_training(saved)
    checkpoint = torch.load("mine/run/checkpoints/last.pt", weights_only=True)
    assert checkpoint["config"] == compose.OmegaConf.to_container(saved)


def test_a_run_folder_may_refer_to_other_keys_and_hold_spaces(command, tiny, tmp_path):
    chosen = ["optim.lr=3e-4", "hydra.run.dir='my runs/${optim.lr}'"]
    outcome = command("train", *tiny, "limit_batches=1", *chosen)
    assert outcome.code == 0, outcome.err
    assert os.listdir("my runs") == ["0.0003"]
    assert outcome.err.splitlines()[-1] == "next: python eval.py 'ckpt=\"my runs/0.0003/checkpoints/best.pt\"'"
    assert "already holds a run" in command("train", *tiny, *chosen).error
    assert "hydra.run.dir: " in command("train", *tiny, "hydra.run.dir='runs/${optm.lr}'").error


def test_limit_batches_and_overfit_shorten_what_an_epoch_sees(command, tiny):
    assert command("train", *tiny, "epochs=2", "limit_batches=2", "log_every=1", "hydra.run.dir=limited").code == 0
    assert [record["step"] for record in records(Path("limited")) if "train/loss" in record] == [1, 2, 3, 4]
    assert command("train", *tiny, "overfit=2", "log_every=1", "hydra.run.dir=overfit").code == 0
    assert [record["step"] for record in records(Path("overfit")) if "train/loss" in record] == [1]


def test_a_run_starts_from_the_weights_of_another(command, tiny, trained):
    weights = trained / "checkpoints" / "best.pt"
    outcome = command("train", *tiny, f"weights={weights}", "limit_batches=1", "optim.lr=1e-12", "hydra.run.dir=run")
    assert outcome.code == 0
    assert f"{weights}: " in outcome.err
    assert f"{weights}: " in Path("run/train.log").read_text()
    old, new = (torch.load(path, weights_only=True) for path in (weights, "run/checkpoints/last.pt"))
    name = "decoder.dec_score_head.0.weight"
    assert torch.allclose(old["ema"]["module"][name], new["model"][name], atol=1e-6)


@pytest.mark.parametrize("resume", [[], ["resume=auto"]])
@pytest.mark.parametrize("weights", ["missing.pth", "missing.safetensors"])
def test_weights_that_are_not_there_are_refused_before_data_are_drawn(command, tiny, weights, resume):
    own = ["data.root=new", f"weights={weights}", "hydra.run.dir=run", *resume]
    assert command("train", *tiny, *own).error.startswith(f"error: {weights}: there is no such file; give ")
    assert not Path("new").exists() and not Path("run").exists()


def test_what_was_repaired_in_the_annotations_is_told_and_kept(command, make_coco):
    root = make_coco("mine", ["crate"])
    annotations = root / "instances_train.json"
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"][2] = content["annotations"][1]["bbox"][3] = 0
    annotations.write_text(json.dumps(content))
    own = ["data=custom", f"data.root={root}", "model=tiny", "logger=none", *SIZE, *CPU]
    outcome = command("train", *own, "epochs=1", "limit_batches=1", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert f"{annotations}: 2 boxes without width or height (annotation ids): 1, 2; dropped\n" in outcome.err
    (finding,) = json.loads(Path("run/data_findings.json").read_text())
    assert finding["split"] == "train" and finding["count"] == 2 and finding["training"] == "dropped"


def test_no_checkpoint_is_offered_where_there_is_none(command, tiny, monkeypatch):
    def run(runner):
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(Runner, "run", run)
    outcome = command("train", *tiny, "hydra.run.dir=run")
    assert outcome.code == 130 and "resume=" not in outcome.err


@pytest.mark.parametrize("error", [ZeroDivisionError("of ours"), UserError("step 3", "diverged", "lower optim.lr")])
def test_what_ends_a_run_is_in_its_log(command, tiny, monkeypatch, error):
    def run(runner):
        raise error

    monkeypatch.setattr(Runner, "run", run)
    with pytest.raises(ZeroDivisionError) if isinstance(error, ZeroDivisionError) else contextlib.nullcontext():
        assert command("train", *tiny, "hydra.run.dir=run").code == 2
    log = Path("run/train.log").read_text()
    assert f"ERROR stopped: {error}" in log
    assert ("Traceback" in log) == isinstance(error, ZeroDivisionError)


def test_an_experiment_of_the_notebook_is_found_from_any_folder(command, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(compose, "ROOT", tmp_path / "checkout")
    monkeypatch.setenv("NEO_MODEL_ROOT", "")
    (tmp_path / "checkout" / "experiments").mkdir(parents=True)
    recipe = "# @package _global_\ndefaults:\n  - override /schedule: cosine\nlimit_batches: 2\n"
    (tmp_path / "checkout" / "experiments" / "short.yaml").write_text(recipe)
    assert command("train", *tiny, "experiments=short", "log_every=1", "hydra.run.dir=run").code == 0
    assert [record["step"] for record in records(Path("run")) if "train/loss" in record] == [1, 2]
    assert "did you mean short?" in command("train", "experiments=shrt").error


def test_every_experiment_of_the_notebook_fits_the_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in choices("experiments"):
        validate_training(compose_training([f"experiments={name}", "data.root=/disk/mine"]))


def test_resume_is_for_the_command_line_only(command, tiny, tmp_path):
    (tmp_path / "mine" / "experiments").mkdir(parents=True)
    (tmp_path / "mine" / "experiments" / "again.yaml").write_text("# @package _global_\nresume: run\n")
    error = command("train", *tiny, "experiments=again", "--config-dir", str(tmp_path / "mine")).error
    assert "resume: is set in a file; give resume=RUN_DIR on the command line" in error


def test_debug_shows_where_a_user_error_comes_from(command):
    assert "Traceback" not in command("train", "epochs=0").err
    outcome = command("train", "epochs=0", "debug=true")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: epochs: 0 is not")


def test_help_is_a_manual(command):
    outcome = command("train", "--help")
    assert outcome.code == 0
    for group in group_names():
        listed = outcome.out.split(f"\n  {group}\n")[1].split("\n\n")[0]
        assert [line.lstrip(" *").split()[0] for line in listed.splitlines() if line[4:6] in ("* ", "  ")
                and line[6] != " "] == choices(group)  # fmt: skip
    for choice in ("tiny", "shapes", "480x270", "short", "auto"):
        assert f"    * {choice} " in outcome.out
    for key in ("epochs", "overfit", "limit_batches", "resume", "debug"):
        assert re.search(rf"^  {key} +\S", outcome.out, re.MULTILINE)
    assert outcome.out.count("\n  python train.py") == 5
    assert max(map(len, outcome.out.splitlines())) <= 100
    assert "python train.py --cfg job prints every key" in outcome.out and "conf/local/default.yaml" in outcome.out
    assert "ckpt=FILE" in command("eval", "--help").out


@pytest.mark.parametrize("line", re.findall(r"^  python train.py ?(.*)$", EXAMPLES["train"], re.MULTILINE))
def test_examples_of_the_manual_compose(line):
    overrides = [part for part in line.split() if part != "-m" and not part.startswith("resume=")]
    if "-m" in line.split():
        overrides = [part.split(",")[0] for part in overrides]
    validate_training(compose_training(overrides))


def test_the_composed_configuration_can_be_printed(command):
    outcome = command("train", "--cfg", "job", "optim.lr=7e-4")
    assert outcome.code == 0
    assert "lr: 0.0007" in outcome.out


def test_a_run_imports_neither_pytorchs_compiler_nor_torchvision(tmp_path, tiny):
    program = (
        "import sys; from neo_model.config.command_line import main\n"
        "code = main('train', sys.argv[1:])\n"
        "print(code, *{'torch._dynamo', 'torchvision'} & set(sys.modules))"
    )
    settings = [*tiny, "limit_batches=1", "evaluation.nms_threshold=0.7", f"hydra.run.dir={tmp_path / 'run'}"]
    command = [sys.executable, "-c", program, *settings]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "0", ended.stdout + ended.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()


def test_absent_coco_is_found_before_torch_is_loaded(tmp_path):
    program = (
        "import sys; from neo_model.config.command_line import main\n"
        "code = main('train', ['data=coco', 'hardware=rtx3090'])\n"
        "print(code, 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "2 False\n"
    assert "`python -m neo_model.data.prepare root=data/coco`" in ended.stderr
    assert not os.listdir(tmp_path)


def test_loader_processes_start_before_the_weights_and_end_with_an_error_there(command, tiny, monkeypatch):
    alive = []

    def fail(*arguments, **options):
        alive.extend(multiprocessing.active_children())
        raise UserError("weights", "are not to be had", "take others")

    monkeypatch.setattr("neo_model.config.jobs._starting_model", fail)
    outcome = command("train", *tiny, "hardware.workers=2")
    assert outcome.code == 2 and "weights" in outcome.err
    assert len(alive) == 2 and not multiprocessing.active_children()
