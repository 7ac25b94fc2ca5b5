"""The disk of the trials fails what it is told to, as often as it should, and only in its folder."""

import errno
from pathlib import Path

import pytest

from neo_model.testing.failing_disk import FailingDisk, Operation
from neo_model.utils.sealed_file import write_sealed


@pytest.fixture
def make_disk(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    return lambda *fault: FailingDisk(tmp_path / "run", *fault, setattr=monkeypatch.setattr)


def test_it_sees_what_a_file_and_a_checkpoint_do_to_the_disk(make_disk, tmp_path):
    disk = make_disk(None)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    (tmp_path / "elsewhere").write_text("not counted")
    archive = b"PK\x05\x06" + bytes(18)
    write_sealed(tmp_path / "run" / "last.pt", lambda file: file.write(archive), {"schema": 2})
    kinds = [operation.what for operation in disk.operations]
    assert kinds[:2] == ["create metrics.jsonl", "write metrics.jsonl"]
    assert kinds[2:] == [
        *("create .last.pt.*", "write .last.pt.*", "write .last.pt.*", "fsync .last.pt.*"),
        *("rename last.pt", "fsync run", "remove .last.pt.*"),
    ]


def write_twice(path: Path) -> list[str]:
    said = []
    for _ in range(2):
        try:
            path.write_text("x")
            said.append("written")
        except OSError as error:
            said.append(errno.errorcode[error.errno])
    return said


def test_a_defect_passes_and_a_full_disk_stays_full(make_disk, tmp_path):
    path, fault = tmp_path / "run" / "a1", Operation("write a*", 1)
    assert write_twice(path) == ["written", "written"]
    make_disk(fault, errno.EIO)
    assert write_twice(path) == ["EIO", "written"]
    make_disk(fault, errno.ENOSPC)
    assert write_twice(path) == ["ENOSPC", "ENOSPC"]
    path.unlink()  # which needs no room
