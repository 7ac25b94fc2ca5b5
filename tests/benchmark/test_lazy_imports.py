"""What start-up leaves unimported until it is needed."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "cv2", "scipy", "albumentations", "pycocotools", "tensorboard", "wandb", "matplotlib"}


@pytest.mark.parametrize("arguments", [["-c", "import neo_model"], ["train.py", "--help"]])
def test_nothing_heavy_is_imported(arguments, pytestconfig):
    command = [sys.executable, "-X", "importtime", *arguments]
    ran = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "neo_model" in imported and not imported & HEAVY
