"""Weight files and checkpoints that mean harm: nothing in them is called, whatever the form and the place."""

import io
import json
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neo_model.config.instantiate import instantiate
from neo_model.config.restore import resumed_config
from neo_model.deploy import load_detector
from neo_model.deploy.convert import convert
from neo_model.engine.checkpoint import read_checkpoint, write_checkpoint
from neo_model.models.huggingface import read_safetensors
from neo_model.models.weights import read_tensors
from neo_model.optim import Constant
from neo_model.utils.sealed_file import write_sealed
from tests.security.conftest import changed
from tests.security.payloads import OPCODES, PAYLOADS, touching

CLASSES = {"names": ["ball"], "category_ids": [1]}
PROGRESS = {"step": 1, "epoch": 0, "batch": 0}


def write(path: Path, content: object, *, form: str, protocol: int = 2) -> Path:
    """A torch file of an object: zip, legacy, a bare pickle, or the tar form before both."""
    if form == "bare":
        path.write_bytes(pickle.dumps(content, protocol))
    elif form == "tar":
        with tarfile.open(path, "w") as archive:
            for name in ("sys_info", "pickle", "storages", "tensors"):
                data = pickle.dumps(content, protocol)
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    return path


def write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name}", data)
    return path


def checkpoint_of(content: dict, path: Path) -> Path:
    """A checkpoint with a seal that agrees, as anybody can write one."""
    entries = {"config": {}, "classes": CLASSES, "model": {}, "ema": None, "progress": PROGRESS}
    write_checkpoint(path, entries | content)
    return path


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_payloads_are_live(tmp_path, name):
    with suppress(AttributeError):  # "state" calls first and fails then
        pickle.loads(pickle.dumps(PAYLOADS[name](tmp_path / "fired"), 2))
    assert (tmp_path / "fired").exists()


@pytest.mark.parametrize("name", OPCODES)
def test_the_opcodes_are_live(tmp_path, name):
    pickle.loads(OPCODES[name](touching(tmp_path / "fired")))
    assert (tmp_path / "fired").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_a_call_in_a_weight_file(refusal, canary, tmp_path, name, suffix):
    path = write(tmp_path / f"weights{suffix}", {"model": PAYLOADS[name](canary)}, form="zip")
    assert "not a plain weight file" in refusal(lambda: read_tensors(path))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", ["zip", "legacy", "bare", "tar"])
def test_a_call_in_every_form_and_protocol(refusal, canary, tmp_path, form, protocol):
    path = write(tmp_path / "weights.pth", PAYLOADS["os.system"](canary), form=form, protocol=protocol)
    assert "not a plain weight file" in refusal(lambda: read_tensors(path))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", OPCODES)
def test_a_call_by_other_opcodes(refusal, canary, tmp_path, name, zipped):
    path, data = tmp_path / "weights.pth", OPCODES[name](touching(canary))
    write_zip(path, {"data.pkl": data, "version": b"3"}) if zipped else path.write_bytes(data)
    assert "not a plain weight file" in refusal(lambda: read_tensors(path))


@pytest.mark.parametrize("key", ["config", "classes", "model", "ema", "rng"])
def test_a_call_in_a_sealed_checkpoint(refusal, canary, tmp_path, key):
    payload = {"nested": [PAYLOADS["collect_env"](canary)]}
    path = checkpoint_of({key: payload}, tmp_path / "best.pt")
    assert "not a plain weight file" in refusal(lambda: read_checkpoint(path))


def test_a_call_in_the_checkpoint_to_resume_from(refusal, canary, tmp_path):
    checkpoint_of({"config": PAYLOADS["os.system"](canary)}, tmp_path / "run" / "checkpoints" / "last.pt")
    assert str(tmp_path / "run") in refusal(lambda: resumed_config(tmp_path / "run", []))


@pytest.mark.parametrize("job", ["eval", "train"])
def test_a_call_in_a_file_given_to_a_command(refused_command, canary, tmp_path, job):
    path = write(tmp_path / "weights.pth", PAYLOADS["os.system"](canary), form="zip", protocol=4)
    data = [f"data.root={tmp_path}/shapes", "data.num_train=1", "data.num_val=1"]
    given = [f"ckpt={path}"] if job == "eval" else [f"weights={path}", "logger=none", "hardware=cpu", *data]
    assert f"{path}: is not a plain weight file" in refused_command(job, *given)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"config": [1]}, "its config is no dictionary"),
        ({"config": None}, "its config is no dictionary"),
        ({"config": {"a": {1: 2}}}, "its config.a has keys that are no text"),
        ({"config": {"a": [torch.zeros(1)]}}, "its config.a[0] is a Tensor"),
        ({"classes": {"names": "ball", "category_ids": [1]}}, "its classes are not names with ids"),
        ({"classes": None}, "its classes are not names with ids"),
        ({"classes": {"names": ["\x1b[2J"], "category_ids": [1]}}, "its classes have names with control characters"),
        ({"classes": {"names": ["\ud800"], "category_ids": [1]}}, "its classes have names with control characters"),
        ({"model": [1]}, "its model is not named weights"),
        ({"model": {1: torch.zeros(1)}}, "its model is not named weights"),
        ({"ema": 3}, "its ema holds no named weights"),
        ({"ema": {"module": None}}, "its ema holds no named weights"),
        ({"progress": PROGRESS | {"epoch": "\x1b[2J"}}, "its progress does not say how far training was"),
        ({"progress": PROGRESS | {"batch": -1}}, "its progress does not say how far training was"),
    ],
)
def test_a_checkpoint_of_odd_parts(refusal, tmp_path, content, said):
    path = checkpoint_of(content, tmp_path / "best.pt")
    assert said in refusal(lambda: read_checkpoint(path))


def many_copies() -> dict:
    """A few hundred bytes that copying out would turn into 10**9 entries."""
    level: list = [0] * 10
    for _ in range(8):
        level = [level] * 10
    return {"levels": level}


def circle() -> dict:
    config: dict = {}
    config["again"] = config
    return config


def deep() -> dict:
    config: dict = {}
    for _ in range(200):
        config = {"a": config}
    return config


@pytest.mark.parametrize("config", [many_copies, circle, deep])
def test_a_small_config_that_would_grow(refusal, tmp_path, config):
    path = checkpoint_of({"config": config()}, tmp_path / "best.pt")
    assert "has too many entries" in refusal(lambda: read_checkpoint(path))


@pytest.mark.parametrize("sealed", [True, False])
def test_a_compressed_bomb(refusal, tmp_path, sealed):
    path = write_zip(tmp_path / "bomb.pt", {"data/0": bytes(20_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    if sealed:
        whole = path.read_bytes()
        write_sealed(path, lambda file: (file.write(whole[:-22]), file.write(whole[-22:])), {"schema": 2})
    assert "bomb.pt: unpacks to 20,000,000 bytes from " in refusal(lambda: read_tensors(path))


def test_a_compressed_bomb_behind_a_false_end(refusal, tmp_path):
    """Torch looks for the list of contents further than Python does."""
    path = write_zip(tmp_path / "bomb.pt", {"data/0": bytes(20_000_000)}, zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes() + b"PK\x05\x06")
    assert "bomb.pt: is not a plain weight file (damaged" in refusal(lambda: read_tensors(path))


FALSE_CLAIMS = {
    "a bytearray of a petabyte": b"cbuiltins\nbytearray\n(L1000000000000000L\ntR.",
    "a tensor beyond its storage": None,
    "a script": b"c__torch__\nModule\n)\x81.",
}


@pytest.mark.parametrize("claim", FALSE_CLAIMS)
def test_a_file_that_claims_what_it_has_not(refusal, tmp_path, claim):
    path, data = tmp_path / "weights.pth", FALSE_CLAIMS[claim]
    if data is None:
        torch.save({"weight": torch.zeros(2, 3)}, path)
        with zipfile.ZipFile(path) as archive:
            entries = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
        small = entries["data.pkl"]
        entries["data.pkl"] = small.replace(b"K\x02K\x03\x86", b"M\xff\xffM\xff\xff\x86")
        assert entries["data.pkl"] != small
    else:
        entries = {"data.pkl": data, "version": b"3"} | ({"constants.pkl": b")."} if claim == "a script" else {})
    assert "not a plain weight file" in refusal(lambda: read_tensors(write_zip(path, entries)))


ODD = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "without values": lambda: torch.empty(3, 3, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "one value a billion times": lambda: torch.zeros(1).expand(10**9),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_a_tensor_that_is_no_dense_array(refusal, tmp_path, kind):
    path = write(tmp_path / "weights.pth", {"model": {"a": [{"bias": ODD[kind]()}]}}, form="zip")
    assert "weights.pth: holds a tensor that is no dense array" in refusal(lambda: read_tensors(path))


def test_attributes_of_a_state_dict_are_left_behind(tmp_path):
    state = OrderedDict(weight=torch.ones(1, 2))
    state._metadata = 5  # torch asks it for the version of each layer
    path = checkpoint_of({"model": state, "ema": {"module": state}}, tmp_path / "best.pt")
    layer = torch.nn.Linear(2, 1, bias=False)
    with pytest.raises(AttributeError):
        layer.load_state_dict(torch.load(path, weights_only=True)["model"])
    content = read_checkpoint(path)
    for weights in (content["model"], content["ema"]["module"]):
        layer.load_state_dict(weights)
        assert layer.weight.tolist() == [[1.0, 1.0]]


def test_a_weight_file_whose_classes_are_not_counted(refusal, tmp_path):
    path = write(tmp_path / "w.pth", {"model": {"decoder.enc_score_head.bias": torch.ones(())}}, form="zip")
    command = {"ckpt": str(path), "to": "official", "out": str(tmp_path / "out.pth"), "model": {}}
    assert "w.pth: holds no RT-DETR" in refusal(lambda: convert(**command))


@pytest.mark.parametrize("name", ["\x1b[2J", "\ud800"])
def test_class_names_of_hugging_face_that_a_terminal_would_obey(refusal, tmp_path, name):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": name}}))
    assert "config.json: has class names with control characters" in refusal(lambda: read_safetensors(tmp_path))


def test_sizes_that_fill_the_memory(refusal, tmp_path, saved_config):
    path = checkpoint_of({"config": changed(saved_config, "model.encoder_dim", 2**30)}, tmp_path / "best.pt")
    said = refusal(lambda: load_detector(path))
    assert "model: has sizes that do not fit into memory (" in said and said.endswith("; make them smaller")
    path = checkpoint_of({"config": changed(saved_config, "model.encoder_dim", 2**40)}, tmp_path / "best.pt")
    assert "model.encoder_dim: 1099511627776 is not a whole number" in refusal(lambda: load_detector(path))


@pytest.mark.parametrize("number", [2**40, 2**62, 2**63, 2**80])
def test_numbers_too_large_for_torch_itself(refusal, number):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Constant, "__init__", lambda self: torch.empty(number, number).fill_(1))
        said = refusal(lambda: instantiate({"_target_": "neo_model.optim.Constant"}, key="schedule"))
    assert said.startswith("schedule: has sizes that do not fit into memory (")
