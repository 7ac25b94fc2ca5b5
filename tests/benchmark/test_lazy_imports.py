"""What start-up leaves unimported until it is needed."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "cv2", "scipy", "albumentations", "pycocotools", "tensorboard", "wandb", "matplotlib"}


def imported_by(arguments, pytestconfig):
    command = [sys.executable, "-X", "importtime", *arguments]
    ran = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}


@pytest.mark.parametrize("arguments", [["-c", "import neo_model"], ["train.py", "--help"]])
def test_nothing_heavy_is_imported(arguments, pytestconfig):
    imported = imported_by(arguments, pytestconfig)
    assert "neo_model" in imported and not imported & HEAVY


def test_a_training_is_ready_without_torchvision(pytestconfig):
    imported = imported_by(["-c", "import neo_model.config.jobs"], pytestconfig)
    assert "torch" in imported and "torchvision" not in imported
