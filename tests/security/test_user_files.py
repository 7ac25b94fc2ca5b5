"""Files of a folder of configurations: each is one line's refusal or plain values of that folder, never a traceback."""

import pytest

from neo_model.config.run_dir import chosen_folder
from neo_model.data.coco import read_coco

WHOLE = "# @package _global_\n"
LONG = "1" * 5000  # digits; Python converts 4,300

# The value of a key, and what is said of it.
VALUES = {
    "no truth": ("!!bool maybe", "is not YAML in line 2 (no usable bool); correct the file"),
    "no whole number": ("!!int x", "is not YAML in line 2 (no usable int); correct the file"),
    "nothing as a whole number": ("!!int ''", "is not YAML in line 2 (no usable int); correct the file"),
    "no whole number under a sign": ("!!int {=: x}", "is not YAML in line 2 (no usable int); correct the file"),
    "no number": ("!!float x", "is not YAML in line 2 (no usable float); correct the file"),
    "no time": ("!!timestamp x", "asks for an object of type 'timestamp'; use plain values only"),
    "a time": ("!!timestamp 2020-01-01", "asks for an object of type 'timestamp'; use plain values only"),
    "no dictionary": ("!!map x", "is not YAML in line 2 (no usable map); correct the file"),
    "a list as a dictionary": ("!!map [[b, c]]", "is not YAML in line 2 (no usable map); correct the file"),
    "many digits": (LONG, "is not YAML in line 2 (no usable int); correct the file"),
    "many digits once it is written": (f"0x{LONG}", "is not YAML in line 2 (no usable int); correct the file"),
    "many digits by sixties": ("1" + ":59" * 3000, "is not YAML in line 2 (no usable int); correct the file"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_is_none_of_its_type(refused_command, written, name):
    value, cause = VALUES[name]
    said = refused_command("train", *written({"local/default.yaml": f"{WHOLE}seed: {value}"}, []))
    assert said.endswith(f"/local/default.yaml: {cause}\n")


def test_a_date_without_a_type_is_text(refused_command, written):
    said = refused_command("train", *written({"local/default.yaml": f"{WHOLE}seed: 2020-99-01"}, []))
    assert said.startswith("error: seed: '2020-99-01' is not a whole number")


# What stands in a list of defaults to read or name a file that the folder does not hold.
ELSEWHERE = {
    "above": "defaults: [../../elsewhere/seed]",
    "above, as a group": "defaults: [{/../elsewhere: seed}]",
    "above, as a choice": "defaults: [{/logger@x: ../../elsewhere/seed}]",
    "above, as the one text": "defaults: ../../elsewhere/seed",
    "from the root": "defaults: [/FOLDER/elsewhere/seed]",
    "by merging": "<<: {defaults: [../../elsewhere/seed]}",
    "by the time": "defaults: [{override /hydra/sweeper: 'own${now:%S}'}]",
    "by the environment": "defaults: [{override /hydra/sweeper: '${oc.env:HYDRA_FULL_ERROR,basic}'}]",
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_defaults_that_lead_out_of_the_folder(refused_command, written, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "seed.yaml").write_text(f"{WHOLE}seed: read\n")
    text = WHOLE + ELSEWHERE[name].replace("FOLDER", str(tmp_path))
    said = refused_command("train", *written({"experiments/evil.yaml": text}, ["experiments=evil"]))
    cause = "' among its defaults, which may lead out of the folder; name files of the folder or of conf/\n"
    assert "/experiments/evil.yaml: has '" in said and said.endswith(cause)


def test_defaults_within_the_folder(refused_command, written):
    files = {
        "experiments/own.yaml": f"{WHOLE}defaults: [/own/seed@_global_, shorter, {{override /logger: none}}]",
        "experiments/shorter.yaml": f"{WHOLE}epochs: 0",
        "own/seed.yaml": "seed: -1",
    }
    said = refused_command("train", *written(files, ["experiments=own"]))
    assert "epochs: 0 is not" in said and "seed: -1 is not" in said


@pytest.mark.parametrize("options", [[], ["-m"]], ids=["a run", "a sweep"])
@pytest.mark.parametrize("value", [LONG, f"[[{LONG}, 2]]", f"{LONG},1"], ids=["number", "list", "choice"])
def test_many_digits_on_the_command_line(refused_command, options, value):
    said = refused_command("train", *options, "epochs=1", f"optim.lr={value}")
    assert said == "error: optim.lr: gives a number of too many digits; give a shorter one, or quoted text\n"


@pytest.mark.parametrize("key", ["epochs", "optim.lr", "limit_batches"])
def test_numbers_that_no_library_holds(refused_command, key):
    said = refused_command("train", f"{key}={'9' * 400}")
    assert f"{key}: {'9' * 400} is not a " in said


def test_many_digits_in_annotations(refusal, tmp_path):
    path = tmp_path / "train.json"
    path.write_text(f'{{"images": [{{"id": {LONG}}}], "annotations": [], "categories": []}}')
    said = refusal(lambda: read_coco(path))
    assert said == f"{path}: holds a number of too many digits; the file may be cut off: fetch or write it again"


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"], ids=["a zero byte", "half a character"])
def test_a_folder_that_no_system_can_name(refusal, name, tmp_path):
    said = refusal(lambda: chosen_folder(tmp_path / name))
    assert said.endswith("b: is no name of a folder; choose another folder")


def test_a_zero_byte_in_a_path_of_a_file(refused_command, written):
    said = refused_command("train", *written({"local/default.yaml": f'{WHOLE}data: {{root: "a\\0b"}}'}, []))
    assert said == "error: data.root: 'a\\x00b' is not text; give text\n"
