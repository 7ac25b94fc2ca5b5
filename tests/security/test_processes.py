"""The commands themselves, in processes of their own: imports and Hydra's start-up belong to what is attacked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.conftest import changed, running, touching
from tests.security.payloads import PAYLOADS
from tests.security.test_weight_files import checkpoint_of, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def refused_process(canary, tmp_path):
    """Runs train.py or eval.py in an empty folder, where it must leave nothing; returns the one line it prints."""
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "evil_module.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "EVIL_TARGET": "evil_module.Thing"}

    def run(script: str, *arguments: str) -> str:
        command = [sys.executable, ROOT / script, *arguments]
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 2, ended.stderr
        assert ended.stdout == ""
        assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr
        assert list(folder.iterdir()) == []
        return ended.stderr

    return run


def test_a_sweep_with_a_callback(refused_process, canary, tmp_path):
    node = f"{{_target_: torch.utils.collect_env.run, command: '{touching(canary)}'}}"
    recipe = tmp_path / "recipes" / "experiments" / "evil.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(f"# @package _global_\nhydra: {{callbacks: {{x: {node}}}}}\n")
    said = refused_process("train.py", "-m", "seed=1,2", f"--config-dir={tmp_path}/recipes", "experiments=evil")
    assert "hydra.callbacks: is refused" in said


@pytest.mark.slow  # the rest import torch first
def test_a_target_that_is_referred_to(refused_process):
    said = refused_process("train.py", "model._target_=${oc.env:EVIL_TARGET}")
    assert "model._target_: 'evil_module.Thing' is not allowed here; use neo_model.models.NAME" in said


@pytest.mark.slow
def test_a_hostile_pickle(refused_process, canary, tmp_path):
    path = write(tmp_path / "weights.pth", PAYLOADS["os.system"](canary), form="legacy", protocol=4)
    assert f"{path}: is not a plain weight file" in refused_process("eval.py", f"ckpt={path}")


@pytest.mark.slow
def test_a_hostile_configuration_in_a_checkpoint(refused_process, canary, tmp_path, saved_config):
    config = changed(saved_config, "logger.evil", running(touching(canary)))
    path = checkpoint_of({"config": config}, tmp_path / "best.pt")
    said = refused_process("eval.py", f"ckpt={path}", "model._target_=${oc.env:EVIL_TARGET}")
    assert "model._target_: 'evil_module.Thing' is not allowed here" in said
    assert "logger.evil._target_: 'torch.utils.collect_env.run' is not allowed here" in said
