import json
import logging

import numpy as np
import pytest

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


def annotation(content, **fields):
    content["annotations"][1].update(fields)


REPAIRS = {
    "without_area": (lambda content: content["annotations"][1].pop("area"), '1 annotations without "area"'),
    "null_area": (lambda content: annotation(content, area=None), '1 annotations without "area"'),
    "without_iscrowd": (lambda content: content["annotations"][1].pop("iscrowd"), '1 annotations without "iscrowd"'),
    "zero_width": (lambda content: annotation(content, bbox=[10, 10, 0, 30]), "1 boxes without width or height"),
    "negative_height": (lambda content: annotation(content, bbox=[10, 10, 5, -30]), "1 boxes without width or height"),
    "outside": (lambda content: annotation(content, bbox=[500, 10, 5, 5]), "1 boxes outside their image"),
    "partly_outside": (lambda content: annotation(content, bbox=[-20, 10, 60, 30]), "1 boxes partly outside"),
    "annotation_id_0": (lambda content: annotation(content, id=0), "ids under 1"),
}


@pytest.mark.parametrize("name", REPAIRS)
def test_a_repair_gives_one_warning_with_its_count(read, caplog, name):
    break_it, message = REPAIRS[name]
    content = small_instances()
    break_it(content)
    with caplog.at_level(logging.WARNING):
        read(content)
    assert len(caplog.records) == 1 and message in caplog.text


def test_a_sound_file_gives_no_warning(read, caplog):
    read(small_instances())
    assert not caplog.records


def test_missing_area_becomes_width_times_height(read):
    content = small_instances()
    del content["annotations"][1]["area"], content["annotations"][1]["iscrowd"]
    row = next(row for row in read(content).ground_truth()["annotations"] if row["id"] == 1)
    assert row["area"] == 1200 and row["iscrowd"] == 0


def test_dropped_boxes_leave_the_others_in_place(read):
    content = small_instances()
    annotation(content, bbox=[10, 10, 0, 30])
    boxes, labels = read(content).objects(0)
    assert boxes.tolist() == [[70.5, 20.25, 90.5, 70.25]] and labels.tolist() == [0]


def test_boxes_partly_outside_are_clipped_for_training_and_as_written_for_evaluation(read):
    content = small_instances()
    annotation(content, bbox=[-20, 10, 60, 300])
    instances = read(content)
    assert instances.objects(0)[0][0].tolist() == [0, 10, 40, 90]
    assert [-20, 10, 60, 300] in [row["bbox"] for row in instances.ground_truth()["annotations"]]


def test_annotation_ids_are_positive_and_distinct_after_the_shift(read):
    content = small_instances()
    annotation(content, id=0)
    ids = [row["id"] for row in read(content).ground_truth()["annotations"]]
    assert min(ids) == 1 and len(set(ids)) == len(content["annotations"])


ERRORS = {
    "unknown_image": (lambda content: annotation(content, image_id=99), "unknown image_id 99"),
    "unknown_category": (lambda content: annotation(content, category_id=2), "unknown category_id 2"),
    "nan": (lambda content: annotation(content, bbox=[1, float("nan"), 2, 3]), "NaN or infinity (annotation ids): 1"),
    "infinity": (lambda content: annotation(content, bbox=[1, 2, float("inf"), 3]), "NaN or infinity"),
    "text_id": (lambda content: annotation(content, id="a1"), "annotation 'a1' has id 'a1'"),
    "text_image_id": (lambda content: annotation(content, image_id="5"), "annotation 1 has image_id '5'"),
    "fraction_id": (lambda content: annotation(content, id=1.5), "has id 1.5"),
    "huge_id": (lambda content: annotation(content, id=2**80), "id must be an integer"),
    "short_box": (lambda content: annotation(content, bbox=[1, 2, 3]), "a list of four numbers"),
    "text_box": (lambda content: annotation(content, bbox=["1", 2, 3, 4]), "a list of four numbers"),
    "null_box": (lambda content: annotation(content, bbox=None), "a list of four numbers"),
    "text_area": (lambda content: annotation(content, area="big"), "area must be a number"),
    "no_box": (lambda content: content["annotations"][1].pop("bbox"), 'annotation 1 has no "bbox"'),
    "double_annotation": (lambda content: annotation(content, id=2), "1 annotation ids that occur more than once: 2"),
    "double_image": (lambda content: content["images"][1].update(id=5), "1 image ids that occur more than once: 5"),
    "double_category": (lambda content: content["categories"][0].update(id=1), "1 category ids that occur"),
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


def test_many_unknown_ids_are_counted_and_the_first_five_shown(read):
    content = small_instances()
    for row in content["annotations"]:
        row["image_id"] += 1000
    message = r"8 annotations with unknown image_id 1005, .*, \.\.\. \(annotation ids\): 90, 1, 2"
    with pytest.raises(UserError, match=message):
        read(content)


def test_an_annotation_file_without_boxes_is_fine(read):
    instances = read({**small_instances(), "annotations": []})
    assert len(instances) == 7 and len(instances.indices_with_objects(3)) == 0
    assert instances.ground_truth()["annotations"] == []


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="annotation file is missing"):
        read_coco(tmp_path / "none.json")


def test_truncated_file_names_the_byte(tmp_path):
    text = json.dumps({**small_instances(), "info": "naïve"}, ensure_ascii=False).encode()
    path = tmp_path / "cut.json"
    path.write_bytes(text[:700])
    with pytest.raises(UserError, match=r"cut.json: is not valid JSON at byte (\d+) of 700") as caught:
        read_coco(path)
    assert 650 < int(str(caught.value).split("byte ")[1].split()[0]) <= 700


def test_a_list_at_the_root(tmp_path):
    with pytest.raises(UserError, match="holds a list at its root"):
        read_coco(write_json(tmp_path / "list.json", []))


def test_binary_rubbish(tmp_path):
    path = tmp_path / "photo.json"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    with pytest.raises(UserError, match="photo.json"):
        read_coco(path)


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
