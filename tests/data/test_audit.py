"""What the audit finds, kind by kind, and that it says of an image file what training would."""

import json
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from neo_model.data.audit import audit, exit_code, main, table
from neo_model.data.image_files import DamagedImage, WrongSize, inspect_image, load_image
from neo_model.utils import UserError
from tests.data.conftest import small_instances, write_json


def found(reports, split: str) -> list[tuple]:
    """(count, what, first, training, stops) of each finding."""
    (findings,) = [report.findings for report in reports if report.name == split]
    return [(f.count, f.what, f.first, f.training, f.stops) for f in findings]


def add(content: dict, number: int, **fields) -> None:
    """One more annotation; a field that is None is left out."""
    row = {"id": number, "image_id": 5, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0, **fields}
    content["annotations"].append({key: value for key, value in row.items() if value is not None})


def test_every_kind_of_wrong_annotation_is_listed_with_the_others(make_data, root):
    content = small_instances()
    content["images"][1]["id"] = 5
    content["images"][6]["height"] = 0
    content["categories"].append({"id": 7, "name": "tram again"})
    bad = [{"image_id": 99}, {"category_id": 4}, {"bbox": [float("nan"), 1, 2, 3]}, {"id": 1}, {"area": None}]
    bad += [{"iscrowd": None}, {"id": -3}, {"bbox": [1, 1, 0, 5]}, {"bbox": [900, 1, 5, 5]}, {"bbox": [-4, 1, 9, 9]}]
    for number, fields in enumerate(bad, start=101):
        add(content, **{"number": number, **fields})
    write_json(root / "instances_train.json", content)
    reports = audit(make_data(), images=False)
    stops = "stops; "
    ids, shifted = " (annotation ids)", "all annotation ids are shifted"
    assert sorted(found(reports, "train")) == sorted([
        (1, "image ids that occur more than once", ("5",), stops + "give each its own id", True),
        (1, "category ids that occur more than once", ("7",), stops + "give each its own id", True),
        (1, "annotation ids that occur more than once", ("1",), stops + "give each its own id", True),
        (1, "images with a width or height under 1", ("65",), stops + "correct their size", True),
        (2, f"annotations with unknown image_id 15, 99{ids}", ("3", "101"), stops + "correct or remove them", True),
        (1, f"annotations with unknown category_id 4{ids}", ("102",), stops + "correct or remove them", True),
        (1, f"boxes with NaN or infinity{ids}", ("103",), stops + "correct them", True),
        (1, f'annotations without "area"{ids}', ("105",), "width x height is filled in", False),
        (1, f'annotations without "iscrowd"{ids}', ("106",), "0 is filled in", False),
        (1, "annotation ids under 1, of which COCO's evaluation ignores 0", ("-3",), shifted, False),
        (1, f"boxes without width or height{ids}", ("108",), "dropped", False),
        (2, f"boxes outside their image{ids}", ("7", "109"), "dropped", False),
        (1, f"boxes partly outside their image{ids}", ("110",), "clipped", False),
    ])
    assert exit_code(reports) == 2


def test_what_training_puts_up_with_gives_1_and_says_how_many(make_data, root):
    content = small_instances()
    for number in range(101, 108):
        add(content, number, bbox=[1, 1, 0, 5])
    write_json(root / "instances_train.json", content)
    reports = audit(make_data())
    assert exit_code(reports) == 1
    first, header, line, second = table(reports).splitlines()
    assert first.endswith("instances_train.json: 7 images, 8 boxes, 3 classes")
    assert header.split() == ["count", "what", "the", "first", "training"]
    wanted = "7 boxes without width or height (annotation ids) 101, 102, 103, 104, 105, ... dropped"
    assert line.split() == wanted.split()
    assert second.endswith("instances_val.json: 7 images, 8 boxes, 3 classes: nothing wrong")


def test_a_file_that_cannot_be_read_does_not_hide_the_other(make_data, root):
    (root / "instances_train.json").write_text("[")
    content = small_instances()
    content["images"][0]["file_name"] = "../0.jpg"
    content["images"][1]["file_name"] = "none.jpg"
    write_json(root / "instances_val.json", content)
    reports = audit(make_data(), images=False)
    ((_, what, first, training, stops),) = found(reports, "train")
    assert "is not valid JSON at byte" in what and first == () and "fetch or write it again" in training and stops
    outside, missing = found(reports, "val")
    assert outside[:3] == (1, "images whose file_name leads out of the image folder", ("'../0.jpg'",))
    assert missing[0] == 1 and missing[1].startswith("of 7 images of ") and missing[2] == ("none.jpg",)
    assert "is not valid JSON at byte" in table(reports)


def test_other_classes_and_a_missing_folder_are_found(make_data, root):
    content = small_instances()
    content["categories"][0]["name"] = "bus"
    write_json(root / "instances_val.json", {**content, "annotations": []})
    reports = audit(make_data(val_images=str(root / "none")), images=False)
    folder, boxes, classes = found(reports, "val")
    assert boxes[1] == "holds no boxes to evaluate on" and boxes[4]
    assert folder[1] == "image folder is missing" and "'tram' and 'bus'" in classes[1] and classes[4]


def test_broken_image_files_are_found_and_what_becomes_of_them(make_data, root):
    images = root / "images"
    whole = (images / "1.jpg").read_bytes()
    (images / "1.jpg").write_bytes(whole[:-9])
    (images / "2.jpg").write_bytes(b"")
    (images / "3.jpg").write_text("<!doctype html>")
    cv2.imwrite(str(images / "4.jpg"), np.zeros((9, 16, 3), np.uint8))
    (images / "5.jpg").unlink()
    reports = audit(make_data(max_bad_fraction=0.5))
    size = "4.jpg is 16x9, its annotation says 160x90"
    cut, empty, html = (
        "is cut off (it has no end-of-image marker)", "is empty",
        "is not an image that can be read (JPEG, PNG, BMP, TIFF, WebP)",
    )  # fmt: skip
    train, val = found(reports, "train"), found(reports, "val")
    missing, wrong, *damaged = train
    assert missing[0] == 1 and missing[2] == ("5.jpg",) and missing[4]
    assert wrong[:3] == (1, "files of another size than their annotation says", (size,)) and wrong[4]
    replaced = "another image is trained on instead"
    assert damaged == [
        (1, f"files of which each {cause}", (name,), replaced, False)
        for cause, name in ((cut, "1.jpg"), (empty, "2.jpg"), (html, "3.jpg"))
    ]
    assert [(entry[1], entry[4]) for entry in val[2:]] == [(entry[1], True) for entry in damaged]
    too_many = found(audit(make_data(max_bad_fraction=0.2)), "train")[-1]
    assert too_many[4]
    assert too_many[1].startswith("3 of 7 training images are damaged, more than the fraction 0.2: 1.jpg")


TAIL = b"\0" * 5000


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("size_wh", [(40, 30), (300, 200)])
def test_a_look_at_header_and_end_says_what_decoding_would(tmp_path, kind, size_wh):
    noise = np.random.default_rng(0).integers(0, 255, (size_wh[1], size_wh[0], 3), np.uint8)
    whole, path = cv2.imencode(kind, noise)[1].tobytes(), tmp_path / f"a{kind}"
    cuts = [0, 3, 20, 300, len(whole) // 2, len(whole) - 3, len(whole)]
    thumbnail = whole[:2] + b"\xff\xe1" + (1002).to_bytes(2, "big") + b"\xff\xd9" * 500 + whole[2:]
    contents = [whole[:cut] for cut in cuts] + [whole[:-9] + bytes(9), whole + TAIL, whole[:-9] + TAIL]
    contents += [thumbnail, thumbnail[:-9], thumbnail[: len(thumbnail) // 2]] if kind == ".jpg" else []
    for content in contents:
        path.write_bytes(content)
        for claimed_wh in (size_wh, (1, 1)):
            assert _outcome(inspect_image, path, claimed_wh) == _outcome(load_image, path, claimed_wh)


def test_images_turned_by_exif_are_a_finding_of_their_own(root, make_data):
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in (1, 2):
        with Image.open(root / "images" / f"{number}.jpg") as image:
            image.save(root / "images" / f"{number}.jpg", exif=exif)
    (count, what, shown, _, stops), *others = found(audit(make_data()), "train")
    assert (count, what, stops, others) == (2, "files that their EXIF orientation turns", True, [])
    assert [name.split()[0] for name in shown] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp"])
def test_without_decoding_a_look_costs_no_pixels_and_finds_what_is_cut(tmp_path, kind, monkeypatch):
    whole, path = cv2.imencode(kind, np.zeros((30, 40, 3), np.uint8))[1].tobytes(), tmp_path / f"a{kind}"
    segment = b"\xff\xe1" + (40_002).to_bytes(2, "big") + bytes(40_000)  # no size before the first 32 KiB
    contents = [whole, whole[:2] + segment + whole[2:]] if kind == ".jpg" else [whole]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("pixels were decoded"))
    for content in contents:
        path.write_bytes(content)
        inspect_image(path, (40, 30), decoding=False)
        with pytest.raises(WrongSize, match="is 40x30, its annotation says 60x30; write the image again in that size"):
            inspect_image(path, (60, 30), decoding=False)
        if kind != ".bmp":
            path.write_bytes(content[:-9])
            with pytest.raises(DamagedImage, match="is cut off"):
                inspect_image(path, (40, 30), decoding=False)


def _outcome(look, path, size_wh) -> str:
    try:
        look(path, size_wh)
    except UserError as error:
        return str(error)
    return "fine"


def test_the_command_prints_the_table_and_gives_its_exit_code(root, capsys):
    arguments = ["data=custom", f"data.root={root}"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("nothing wrong") == 2
    (root / "images" / "0.jpg").write_bytes(b"")
    assert main([*arguments, "images=false"]) == 0
    assert main([*arguments, "data.max_bad_fraction=1"]) == 2  # an evaluation leaves nothing out
    assert "files of which each is empty" in capsys.readouterr().out
    for wrong in (["data.rot=x"], ["images=no"], ["hydra.run.dir=x"], ["data.root=absent"]):
        assert main([*arguments, *wrong]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert main(["--help"]) == main([]) == 0
    assert "data=coco images=false" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word():
    command = [sys.executable, "-m", "neo_model.data.audit", "--help"]  # prints as the table is, without reading data
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as audit:
        audit.stdout.close()
        assert audit.stderr.read() == b""
    assert audit.returncode == -signal.SIGPIPE


def test_findings_are_plain_json_for_the_run_folder(make_data, root):
    content = small_instances()
    add(content, 101, bbox=[1, 1, 0, 5])
    write_json(root / "instances_val.json", content)
    assert json.loads(json.dumps(make_data().findings())) == [{
        "split": "val",
        "where": str(root / "instances_val.json"),
        "what": "boxes without width or height (annotation ids)",
        "count": 1,
        "first": ["101"],
        "training": "dropped",
    }]
