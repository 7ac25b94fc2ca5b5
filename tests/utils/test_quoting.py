"""What a command prints to be typed reads back as what it stands for."""

import shlex

import pytest

from neo_model.config.compose import parse_overrides
from neo_model.utils.quoting import quoted, typed

ODD = ["a b/best.pt", "0_lr=5e-05,x/best.pt", "it's", 'say "so"', "a(b)", "é/a", "x;y", "~/a"]


@pytest.mark.parametrize("path", ODD)
def test_odd_paths_survive_shell_and_hydra(path):
    (word,) = shlex.split(typed("ckpt", path))
    assert parse_overrides([word])[0].value() == path
    assert parse_overrides([f"ckpt={quoted(path)}"])[0].value() == path


def test_plain_paths_stay_plain():
    assert typed("resume", "outputs/train/2024-01-02_03-04-05-6") == "resume=outputs/train/2024-01-02_03-04-05-6"
