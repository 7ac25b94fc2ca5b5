"""A file that appears when an attack succeeds, and commands that must end in one line without it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from neo_model.config.command_line import main
from neo_model.config.compose import compose_training
from neo_model.engine import Runner
from neo_model.utils import UserError


@pytest.fixture
def canary(tmp_path):
    """The path that an attack would create; the test fails if one has."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "the attack was carried out"


@pytest.fixture
def refusal(canary):
    """Calls something that must raise ``UserError`` on one line, and returns the line."""

    def call(action: Callable[[], object]) -> str:
        with pytest.raises(UserError) as caught:
            action()
        assert "\n" not in str(caught.value)
        assert not canary.exists()
        return str(caught.value)

    return call


@pytest.fixture
def refused_command(canary, tmp_path, monkeypatch, capfd):
    """Runs train.py or eval.py in an empty folder, where it must leave nothing; returns the one line it prints."""
    def train(self: Runner) -> None:
        raise AssertionError("a training started")

    monkeypatch.setattr(Runner, "run", train)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(job: str, *arguments: str) -> str:
        capfd.readouterr()
        code = main(job, list(arguments))
        said = capfd.readouterr().err
        assert code == 2, said
        assert said.startswith("error: ") and said.count("\n") == 1, said
        assert list(folder.iterdir()) == []
        assert not canary.exists()
        return said

    return run


@pytest.fixture
def written(canary, tmp_path):
    """Writes files of a folder of configurations and returns the arguments that use it."""

    def write(files: dict[str, str], chosen: list[str]) -> list[str]:
        folder = tmp_path / "folder"
        folder.mkdir()
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text.replace("COMMAND", touching(canary)))
        return [f"--config-dir={folder}", *chosen]

    return write


@pytest.fixture(scope="session")
def saved_config() -> dict:
    """What checkpoints hold as ``config``: plain containers, references not resolved."""
    return OmegaConf.to_container(compose_training(["model=tiny", "logger=none", "hardware=cpu"]))


def changed(config: dict, key: str, value: object) -> dict:
    """A copy of a plain configuration with another value at a dotted key; new nodes are made on the way."""
    copied = json.loads(json.dumps(config))
    *parents, last = key.split(".")
    node = copied
    for name in parents:
        node = node.setdefault(name, {})
    node[last] = value
    return copied


def running(command: str) -> dict:
    """The node that Hydra's own blocklist lets through."""
    return {"_target_": "torch.utils.collect_env.run", "command": command}


def touching(path: Path) -> str:
    """The shell command that creates a file."""
    return f"touch {path}"
