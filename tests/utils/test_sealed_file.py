"""Files that tell every flipped bit and every missing byte."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch

from neo_model.models.weights import read_tensors
from neo_model.utils import UserError
from neo_model.utils.sealed_file import DamagedFile, check_seal, write_sealed

FACTS = {"schema": 2, "step": 7}


@pytest.fixture
def sealed(tmp_path) -> Path:
    path = tmp_path / "small.pt"
    write_sealed(path, lambda file: torch.save({"w": torch.arange(5.0)}, file), FACTS)
    return path


def test_the_seal_is_the_archives_comment_and_anybody_can_check_it(sealed):
    content = sealed.read_bytes()
    comment = json.loads(zipfile.ZipFile(sealed).comment)
    assert comment == FACTS | {"sha256": hashlib.sha256(content[:-66]).hexdigest()} == check_seal(sealed)
    assert read_tensors(sealed)["w"].tolist() == [0, 1, 2, 3, 4]


def test_every_flipped_bit_and_every_missing_end_is_found(sealed):
    whole = sealed.read_bytes()
    for position in range(0, len(whole), 7 if len(whole) < 20_000 else 101):
        for damaged in (
            whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :],
            whole[:position],
        ):
            sealed.write_bytes(damaged)
            with pytest.raises(UserError):
                read_tensors(sealed)


@pytest.mark.parametrize("bit", range(8))
def test_no_bit_of_the_seal_itself_is_taken_on_trust(sealed, bit):
    whole = sealed.read_bytes()
    for position in range(len(whole) - 140, len(whole)):
        sealed.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
        with pytest.raises(UserError):
            read_tensors(sealed)


def test_what_is_appended_is_found_and_a_file_without_seal_has_none(sealed, tmp_path):
    sealed.write_bytes(sealed.read_bytes() + b"\n")
    with pytest.raises(DamagedFile, match=r"small.pt: is damaged \(its SHA-256 is .*; use another copy"):
        check_seal(sealed)
    torch.save({"w": torch.ones(1)}, tmp_path / "plain.pt")
    assert check_seal(tmp_path / "plain.pt") is None


@pytest.mark.parametrize("start", [b"not {", b"\xff", b"[" * 50_000])
def test_a_true_digest_without_json_around_it_is_damage_too(sealed, start):
    whole = sealed.read_bytes()
    comment = start + b'"sha256": "'
    head = whole[: whole.rindex(b"PK\x05\x06") + 20] + (len(comment) + 66).to_bytes(2, "little") + comment
    sealed.write_bytes(head + hashlib.sha256(head).hexdigest().encode() + b'"}')
    with pytest.raises(DamagedFile, match=r"small.pt: is damaged \(its seal is no JSON\); use another copy"):
        check_seal(sealed)


def test_only_archives_are_sealed(tmp_path):
    with pytest.raises(RuntimeError, match="ZIP"):
        write_sealed(tmp_path / "a", lambda file: file.write(b"text"), FACTS)
    assert not list(tmp_path.iterdir())
