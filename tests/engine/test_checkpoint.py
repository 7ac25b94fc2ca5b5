"""Checkpoints are whole or not there, and say in one line what is wrong with a file."""

import os
import resource

import pytest
import torch

from neo_model.data import Classes
from neo_model.engine.checkpoint import (
    FORMAT,
    averaged_weights,
    check_classes,
    read_checkpoint,
    write_checkpoint,
)
from neo_model.utils import UserError


def content(value: float = 1.0) -> dict:
    classes = {"names": ["a"], "category_ids": [1]}
    return {"config": {"epochs": 3}, "classes": classes, "model": {"w": torch.full((1000,), value)}, "ema": None}


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "last.pt"
    write_checkpoint(path, content())
    read = read_checkpoint(path)
    assert read.pop("model")["w"].tolist() == content()["model"]["w"].tolist()
    assert read == {key: value for key, value in content().items() if key != "model"} | {"format": FORMAT}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "last.pt"
    write_checkpoint(path, content(1.0))
    whole = torch.save

    def break_off(saved, file):
        whole({**saved, "model": None}, file)
        raise error

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(UserError if isinstance(error, OSError) else error):
        write_checkpoint(path, content(2.0))
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["last.pt"]
    torch.testing.assert_close(read_checkpoint(path)["model"], content(1.0)["model"])


@pytest.fixture
def small_disk():
    """No file of this process may grow past 100 kB; torch reports that, as a full disk, with an error of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, small_disk):
    path = tmp_path / "last.pt"
    write_checkpoint(path, content())
    with pytest.raises(UserError, match="last.pt: cannot be written .File too large.; [^\n]*$"):
        write_checkpoint(path, content() | {"model": torch.zeros(1_000_000)})
    assert os.listdir(tmp_path) == ["last.pt"]
    assert read_checkpoint(path)["model"]["w"].mean() == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_checkpoint(tmp_path / "checkpoints" / "last.pt", content())


def test_errors_of_ours_in_the_content_keep_their_traceback(tmp_path):
    with pytest.raises((TypeError, AttributeError)):
        write_checkpoint(tmp_path / "last.pt", {"model": (x for x in ())})
    assert os.listdir(tmp_path) == []


def test_files_that_are_no_checkpoints_are_one_line(tmp_path):
    path = tmp_path / "last.pt"
    write_checkpoint(path, content())
    half = path.read_bytes()[: path.stat().st_size // 2]
    cases = {"missing.pt": "there is no such file", "half.pt": "damaged", "bare.pt": "is not a checkpoint of neo_model"}
    (tmp_path / "half.pt").write_bytes(half)
    torch.save(content()["model"], tmp_path / "bare.pt")
    torch.save(content() | {"format": FORMAT + 1}, tmp_path / "newer.pt")
    cases["newer.pt"] = "update neo_model"
    for name, cause in cases.items():
        with pytest.raises(UserError, match=f"{name}: [^\n]*{cause}[^\n]*$"):
            read_checkpoint(tmp_path / name)


def test_the_average_is_what_is_evaluated():
    average = {"module": {"w": torch.zeros(2)}, "n_averaged": torch.tensor(3)}
    assert averaged_weights(content() | {"ema": average}) is average["module"]
    assert averaged_weights(content())["w"].mean() == 1


def test_classes_must_be_the_same():
    saved = {"names": ["car", "bus"], "category_ids": [1, 2]}
    check_classes("best.pt", saved, Classes(names=["car", "bus"], category_ids=[1, 2]))
    for names, ids, cause in (
        (["car"], [1], "has 2 classes, the data 1, first differing in 'bus' and 'nothing'"),
        (["car", "van"], [1, 2], "has 2 classes, the data 2, first differing in 'bus' and 'van'"),
        (["car", "bus"], [1, 7], "of other category ids"),
    ):
        with pytest.raises(UserError, match=f"best.pt: .*{cause}.*rehead=true"):
            check_classes("best.pt", saved, Classes(names=names, category_ids=ids))


def test_an_evaluation_takes_the_same_classes_of_other_ids_where_names_tell_them_apart():
    saved = {"names": ["car", "bus"], "category_ids": [1, 2]}
    check_classes("best.pt", saved, Classes(names=["car", "bus"], category_ids=[3, 7]), any_ids=True)
    twice = {"names": ["car", "car"], "category_ids": [1, 2]}
    for known, names in ((saved, ["bus", "car"]), (twice, ["car", "car"])):
        with pytest.raises(UserError, match="rehead=true"):
            check_classes("best.pt", known, Classes(names=names, category_ids=[3, 7]), any_ids=True)
