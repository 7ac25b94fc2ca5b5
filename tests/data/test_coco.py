import json

import numpy as np
import pytest

from neo_model.data import coco_columns
from neo_model.data.annotation_file import without_outlines
from neo_model.data.coco import read_coco
from neo_model.utils import UserError
from tests.data.conftest import small_instances, write_json


@pytest.fixture
def read(tmp_path):
    return lambda content: read_coco(write_json(tmp_path / "instances.json", content))


def test_classes_are_in_order_of_category_id_and_include_those_without_boxes(read):
    classes = read(small_instances()).classes
    assert classes.category_ids == [1, 3, 7]
    assert classes.names == ["person", "car", "tram"]


def test_images_keep_the_order_of_the_file_and_get_their_own_boxes(read):
    instances = read(small_instances())
    assert instances.image_ids.tolist() == [5, 15, 25, 35, 45, 55, 65]
    assert instances.file_names() == [f"{index}.jpg" for index in range(7)]
    boxes, labels = instances.objects(5)
    assert boxes.tolist() == [[200, 100, 260, 150]] and labels.tolist() == [0]
    assert instances.objects(2)[0].shape == (0, 4)


def test_crowds_stay_for_evaluation_and_leave_training(read):
    instances = read(small_instances())
    boxes, labels = instances.objects(0)
    assert boxes.tolist() == [[10, 10, 50, 40], [70.5, 20.25, 90.5, 70.25]] and labels.tolist() == [1, 0]
    crowds = [row for row in instances.ground_truth()["annotations"] if row["iscrowd"]]
    assert [(row["id"], row["bbox"], row["area"]) for row in crowds] == [(90, [0, 0, 90, 60], 77.5)]


def test_ground_truth_says_what_the_file_says(read):
    content = small_instances()
    truth = read(content).ground_truth()
    assert truth["images"] == content["images"]
    assert truth["categories"] == sorted(content["categories"], key=lambda category: category["id"])
    stripped = [{key: row[key] for key in row if key != "segmentation"} for row in content["annotations"]]
    assert sorted(truth["annotations"], key=lambda row: row["id"]) == sorted(stripped, key=lambda row: row["id"])
    json.dumps(truth)


def test_ground_truth_of_some_images(read):
    truth = read(small_instances()).ground_truth(np.array([1, 2]))
    assert [image["id"] for image in truth["images"]] == [15, 25]
    assert [row["image_id"] for row in truth["annotations"]] == [15]


def test_a_sound_file_gives_no_warning(read, caplog):
    read(small_instances())
    assert not caplog.records


def annotation(content, **fields):
    content["annotations"][1].update(fields)


ERRORS = {
    "fraction_id": (lambda content: annotation(content, id=1.5), "has id 1.5"),
    "huge_id": (lambda content: annotation(content, id=2**80), "id must be an integer"),
    "huge_box": (lambda content: annotation(content, bbox=[1, 2, 10**400, 4]), "a list of four numbers"),
    "short_box": (lambda content: annotation(content, bbox=[1, 2, 3]), "a list of four numbers"),
    "text_box": (lambda content: annotation(content, bbox=["1", 2, 3, 4]), "a list of four numbers"),
    "null_box": (lambda content: annotation(content, bbox=None), "a list of four numbers"),
    "text_area": (lambda content: annotation(content, area="big"), "area must be a number"),
    "no_box": (lambda content: content["annotations"][1].pop("bbox"), 'annotation 1 has no "bbox"'),
    "no_size": (lambda content: content["images"][1].pop("width"), 'image 15 has no "width"'),
    "zero_size": (lambda content: content["images"][1].update(width=0), "width or height under 1: 15"),
    "no_images": (lambda content: content.update(images=[]), "holds no images"),
    "no_classes": (lambda content: content.update(categories=[]), "holds no classes"),
    "name_is_number": (lambda content: content["images"][1].update(file_name=7), "file_name must be a text"),
    "list_missing": (lambda content: content.pop("annotations"), 'no list "annotations"'),
    "not_an_object": (lambda content: content["images"].append(3), "images[7] is not an object"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_repaired_is_refused_and_named(read, name):
    break_it, message = ERRORS[name]
    content = small_instances()
    break_it(content)
    with pytest.raises(UserError) as caught:
        read(content)
    assert message in str(caught.value) and "instances.json" in str(caught.value)


def test_an_annotation_file_without_boxes_is_fine(read):
    instances = read({**small_instances(), "annotations": []})
    assert len(instances) == 7 and len(instances.indices_with_objects(3)) == 0
    assert instances.ground_truth()["annotations"] == []


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="annotation file is missing"):
        read_coco(tmp_path / "none.json")


def test_binary_rubbish(tmp_path):
    path = tmp_path / "photo.json"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    with pytest.raises(UserError, match="photo.json"):
        read_coco(path)


def value(key, **fields):
    return lambda content: content[key][1].update(fields)


USUAL = {
    "as it is": lambda content: None,
    "no area": lambda content: content["annotations"][0].pop("area"),
    "null crowd": value("annotations", iscrowd=None),
    "file name": value("images", file_name="naïve/日.jpg"),
    "class name": value("categories", name="Ö"),
    "no annotations": lambda content: content["annotations"].clear(),
    "other keys": lambda content: content.update(info={"annotations": [{"id": 1}], "text": "]}\\\""}),
}
UNUSUAL = {
    "whole float": value("annotations", id=71.0),
    "true": value("annotations", iscrowd=True),
    "large numbers": value("annotations", bbox=[1, 2, 10**30, 3], area=10**25),
}


@pytest.mark.parametrize("case", [*USUAL, *UNUSUAL])
def test_what_is_parsed_at_once_is_what_is_parsed_value_by_value(tmp_path, monkeypatch, case):
    pytest.importorskip("msgspec")
    content = small_instances()
    (USUAL | UNUSUAL)[case](content)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    with monkeypatch.context() as patch:
        if case in USUAL:
            patch.setattr(coco_columns, "content_of", None)
        at_once = coco_columns.read_columns(path)
    monkeypatch.setattr(coco_columns, "Decoder", None)
    one_by_one = coco_columns.read_columns(path)
    for name, column in vars(one_by_one).items():
        np.testing.assert_array_equal(getattr(at_once, name), column, err_msg=name)
        assert getattr(getattr(at_once, name), "dtype", None) == getattr(column, "dtype", None)


BROKEN = {
    "cut": lambda text: text[:-400],
    "not UTF-8": lambda text: text.replace(b'"info"', b'"\xff"'),
    "half a character": lambda text: text.replace(b'"0.jpg"', b'"\\ud800"'),
    "no comma": lambda text: text.replace(b', "image_id"', b' "image_id"', 1),
    "no name": lambda text: text.replace(b'"0.jpg"', b'""'),
    "huge id": lambda text: text.replace(b'"image_id": 5', b'"image_id": 99999999999999999999', 1),
    "text after the end": lambda text: text + b"}",
    "nothing": lambda text: b"",
}


@pytest.mark.parametrize("case", BROKEN)
def test_errors_are_the_same_with_and_without_msgspec(tmp_path, monkeypatch, case):
    pytest.importorskip("msgspec")
    path, said = tmp_path / "instances.json", []
    whole = json.dumps({**small_instances(), "info": {}}).encode()
    path.write_bytes(BROKEN[case](whole))
    assert path.read_bytes() != whole
    for decoder in (coco_columns.Decoder, None):
        monkeypatch.setattr(coco_columns, "Decoder", decoder)
        with pytest.raises(UserError) as caught:
            read_coco(path)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("last", [False, True])
def test_cutting_outlines_out_changes_nothing_else(indent, last):
    outlines = [[[1.5, 2, -3e-5], [4, 5]], [], [[]], None, "text"]
    outlines += [{"counts": [1, 2], "size": [3, 4]}, {"counts": "ab]c"}]
    rows = []
    for number, outline in enumerate(outlines):
        before, after = {"id": number, "note": 'a "segmentation" [1, 2]'}, {"bbox": [1, 2, 3, 4]}
        rows.append({**before, **({} if last else after), "segmentation": outline, **(after if last else {})})
    rows.append({"name": "segmentation", "other": [1, 2], "segmentation2": [[3]]})
    text = json.dumps({"annotations": rows, "tail": [[1], "]"]}, indent=indent)
    shortened = json.loads(without_outlines(text.encode()))
    for row, outline in zip(rows, outlines, strict=False):
        if isinstance(outline, list):
            row["segmentation"] = 0
    assert shortened == {"annotations": rows, "tail": [[1], "]"]}
