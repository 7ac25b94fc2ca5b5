"""The manual's example of a backbone and a decoder of one's own, run as it stands in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def blocks() -> dict[str, str]:
    """The section's code blocks by language."""
    manual = (ROOT / "README.md").read_text()
    section = manual.partition("## A backbone or a decoder of your own")[2].partition("\n## ")[0]
    return dict(re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL))


@pytest.fixture
def checkout(tmp_path, blocks):
    """A copy of the checkout with the example's two files where their first lines say."""
    for folder in ("neo_model", "conf", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("train.py", "eval.py"):
        shutil.copy(ROOT / file, tmp_path)
    for kind in ("python", "yaml"):
        (tmp_path / blocks[kind].splitlines()[0].removeprefix("# ")).write_text(blocks[kind])
    return tmp_path


def run(checkout: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_manuals_example_trains_and_evaluates(checkout, blocks):
    interpreter, *arguments = blocks["bash"].split()
    assert interpreter == "python"
    small = ["data.num_train=4", "data.num_val=2", f"data.root={checkout / 'shapes'}", "hardware=cpu", "epochs=1"]
    small += ["hardware.batch_size=2", "hardware.workers=0", "limit_batches=1", "logger=none", "hydra.run.dir=run"]
    run(checkout, sys.executable, *arguments, *small)
    run(checkout, sys.executable, "eval.py", "ckpt=run/checkpoints/best.pt")
    state = torch.load(checkout / "run/checkpoints/best.pt", weights_only=True)["model"]
    assert state["backbone.blocks.0.conv.weight"].shape == (16, 3, 3, 3)
    said = run(checkout, sys.executable, "-c", (
        "import neo_model; model = neo_model.build_model('plain', num_classes=3);"
        "print(type(model).__name__, type(model.decoder).__name__, type(model.backbone).__name__)"
    ))  # fmt: skip
    assert said.split() == ["PlainDETR", "ForgetfulDecoder", "PlainNet"]


@pytest.mark.slow
def test_a_name_of_ours_is_refused(checkout):
    (checkout / "neo_model/models/own/plain.py").write_text("from torch import nn\nclass ResNetVD(nn.Module): ...\n")
    with pytest.raises(AssertionError, match="own: ResNetVD is the name of a class of neo_model's"):
        run(checkout, sys.executable, "-c", "import neo_model.models")
