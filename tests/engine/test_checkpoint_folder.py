"""The newest checkpoint, those before it, and what a bad disk or a crash makes of them."""

import errno
import os
from pathlib import Path

import pytest
import torch

from neo_model.engine.checkpoint import FORMAT, NewerFormat
from neo_model.engine.checkpoint_folder import CheckpointFolder
from neo_model.models import weights
from neo_model.utils import UserError


def content(step: int) -> dict:
    classes = {"names": ["a"], "category_ids": [1]}
    progress = {"step": step, "epoch": 0, "batch": 0}
    return {"config": {}, "classes": classes, "progress": progress, "model": {"w": torch.full((99,), float(step))}}


def folder_after(tmp_path, *steps: int, keep: int = 2) -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path, keep=keep)
    for step in steps:
        folder.save_last(content(step))
    return folder


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(os.listdir(folder.folder))


def flip(path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (1, ["last.pt"]),
        (2, ["last.pt", "step_00000030.pt"]),
        (3, ["last.pt", "step_00000020.pt", "step_00000030.pt"]),
    ],
)
def test_so_many_are_kept(tmp_path, keep, left):
    folder = folder_after(tmp_path, 10, 20, 30, 40, 40, keep=keep)
    assert names(folder) == left
    assert folder.newest().content["progress"]["step"] == 40


def test_a_damaged_one_is_passed_over_and_does_not_count_as_kept(tmp_path):
    folder = folder_after(tmp_path, 10, 20, 30, keep=3)
    flip(folder.folder / "step_00000020.pt")
    flip(folder.last)
    found = CheckpointFolder(tmp_path, keep=3).newest()
    assert (found.path.name, found.content["progress"]["step"]) == ("step_00000010.pt", 10)
    assert [error.where.rpartition("/")[2] for error in found.passed_over] == ["last.pt", "step_00000020.pt"]
    assert all("is damaged" in error.cause for error in found.passed_over)
    # The next ones saved leave the whole one alone until there are enough others.
    again = CheckpointFolder(tmp_path, keep=2)
    again.newest()
    again.save_last(content(11))
    assert names(again) == ["last.pt", "step_00000010.pt", "step_00000020.pt"]
    again.save_last(content(21))
    again.save_last(content(31))
    assert names(again)[:2] == ["last.pt", "step_00000021.pt"]


def test_without_a_whole_one_the_first_error_is_told_and_a_newer_version_is_no_damage(tmp_path):
    folder = folder_after(tmp_path, 1, 2)
    for name in names(folder):
        (folder.folder / name).write_bytes(b"")
    with pytest.raises(UserError, match="last.pt"):
        folder.newest()
    torch.save({**content(3), "format": FORMAT + 1}, folder.last)
    with pytest.raises(NewerFormat, match="update neo_model"):
        folder.newest()


def test_one_on_a_defective_part_of_the_disk_is_passed_over_and_kept_aside(tmp_path, monkeypatch, caplog):
    folder = folder_after(tmp_path, 10, 20)
    before = folder.last.read_bytes()
    check = weights.check_seal

    def check_or_fail(path):
        if path == folder.last:
            raise OSError(errno.EIO, "Input/output error")
        return check(path)

    again = CheckpointFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "check_seal", check_or_fail)
        found = again.newest()
    assert found.path.name == "step_00000010.pt"
    assert [error.cause for error in found.passed_over] == ["cannot be read (Input/output error)"]
    again.save_last(content(11))
    assert caplog.messages == [f"{again.last} could not be read and is kept as unreadable.pt"]
    again.save_last(content(12))
    assert names(again) == ["last.pt", "step_00000011.pt", "unreadable.pt"]
    assert (again.folder / "unreadable.pt").read_bytes() == before
    assert CheckpointFolder(tmp_path).newest().content["progress"]["step"] == 12


@pytest.mark.parametrize("call", ["stat", "listdir"])
def test_a_folder_that_may_not_be_looked_into_is_not_taken_for_an_empty_one(tmp_path, monkeypatch, call):
    folder = folder_after(tmp_path, 10)
    assert not folder.is_empty() and CheckpointFolder(tmp_path / "none").is_empty()
    folder.last.unlink()
    assert folder.is_empty()

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(*{"stat": (Path, "stat"), "listdir": (os, "listdir")}[call], refuse)
        with pytest.raises(UserError, match=r"checkpoints.*: cannot be read \(Permission denied\); correct the perm"):
            folder.is_empty()


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    folder = folder_after(tmp_path, 1)
    for name in ("checkpoints/.last.pt.77.tmp", ".config.yaml.77.tmp", ".own.tmp"):
        (tmp_path / name).write_bytes(b"half")
    folder.remove_temporaries()
    assert names(folder) == ["last.pt"] and sorted(os.listdir(tmp_path)) == [".own.tmp", "checkpoints"]


def test_a_file_system_without_links_keeps_as_many(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert names(folder_after(tmp_path, 1, 2, 3)) == ["last.pt", "step_00000002.pt"]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO], ids=["no space", "defect"])
@pytest.mark.parametrize(
    ("operation", "call"),
    [("open", 1), ("write", 1), ("write", 2), ("fsync", 1), ("link", 1), ("replace", 1), ("open", 2), ("fsync", 2)],
)
def test_each_operation_may_fail_and_nothing_is_lost(tmp_path, monkeypatch, operation, call, reason):
    folder = folder_after(tmp_path, 10, 20)
    before = {path: path.read_bytes() for path in folder.folder.iterdir()}
    works, calls = getattr(os, operation), []

    def fail(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(reason, os.strerror(reason))
        return works(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, fail)
        with pytest.raises(UserError) as error:
            folder.save_last(content(30))
    assert len(calls) >= call, "the operation must have been reached"
    message = str(error.value)
    assert message.startswith(f"{folder.last}: cannot be written ({os.strerror(reason)}); make room and resume")
    # What comes after the new file is in its place, to make that durable, finds the new state there.
    is_replaced = call == 2 and operation != "write"
    assert folder.newest().content["progress"]["step"] == (30 if is_replaced else 20)
    left = {path: path.read_bytes() for path in folder.folder.iterdir() if path.name != "last.pt"}
    assert all(data in before.values() for data in left.values())
    assert not list(folder.folder.glob(".*"))
    resumed = CheckpointFolder(tmp_path)
    resumed.newest()
    resumed.save_last(content(40))
    assert [name for name in names(resumed) if name != "last.pt"] == [f"step_{30 if is_replaced else 20:08d}.pt"]
