"""Rows 8 to 15 of the README's table of faults: annotation files."""

import json
import logging

import pytest

from neo_model.data.coco import read_coco
from neo_model.utils import UserError
from tests.data.conftest import small_instances, write_json


@pytest.fixture
def read(tmp_path):
    return lambda content: read_coco(write_json(tmp_path / "instances.json", content))


@pytest.fixture
def repaired(read, caplog):
    """Reads annotations after a change, which must give one warning that says ``message``."""

    def repair(change, message):
        content = small_instances()
        change(content)
        with caplog.at_level(logging.WARNING):
            instances = read(content)
        assert len(caplog.records) == 1 and message in caplog.text
        return instances

    return repair


@pytest.fixture
def refused(read):
    """Reads annotations after a change; that must end in an error with the file and ``message``; returns the remedy."""

    def refuse(change, message):
        content = small_instances()
        change(content)
        with pytest.raises(UserError) as caught:
            read(content)
        assert message in str(caught.value) and "instances.json" in str(caught.value)
        return caught.value.remedy

    return refuse


def annotation(content, **fields):
    content["annotations"][1].update(fields)


def test_row_08_truncated_json_names_the_byte(tmp_path):
    text = json.dumps({**small_instances(), "info": "naïve"}, ensure_ascii=False).encode()
    path = tmp_path / "cut.json"
    path.write_bytes(text[:700])
    with pytest.raises(UserError, match=r"cut.json: is not valid JSON at byte (\d+) of 700") as caught:
        read_coco(path)
    assert 650 < int(str(caught.value).split("byte ")[1].split()[0]) <= 700


def test_row_08_a_list_at_the_root(tmp_path):
    with pytest.raises(UserError, match="holds a list at its root"):
        read_coco(write_json(tmp_path / "list.json", []))


def test_row_09_annotation_ids_under_1_are_shifted(repaired):
    truth = repaired(lambda content: annotation(content, id=0), "ids under 1").ground_truth()
    ids = [row["id"] for row in truth["annotations"]]
    assert min(ids) == 1 and len(set(ids)) == len(small_instances()["annotations"])


TWICE = {
    "double annotation": (lambda content: annotation(content, id=2), "1 annotation ids that occur more than once: 2"),
    "double image": (lambda content: content["images"][1].update(id=5), "1 image ids that occur more than once: 5"),
    "double category": (lambda content: content["categories"][0].update(id=1), "1 category ids that occur"),
}


@pytest.mark.parametrize("case", TWICE)
def test_row_09_ids_that_occur_twice(refused, case):
    refused(*TWICE[case])


UNKNOWN = {
    "unknown image": (lambda content: annotation(content, image_id=99), "unknown image_id 99"),
    "unknown category": (lambda content: annotation(content, category_id=2), "unknown category_id 2"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_row_10_unknown_ids(refused, case):
    refused(*UNKNOWN[case])


def test_row_10_many_unknown_ids_are_counted_and_the_first_five_shown(read):
    content = small_instances()
    for row in content["annotations"]:
        row["image_id"] += 1000
    message = r"8 annotations with unknown image_id 1005, .*, \.\.\. \(annotation ids\): 90, 1, 2"
    with pytest.raises(UserError, match=message):
        read(content)


NOT_FINITE = {
    "nan": (lambda content: annotation(content, bbox=[1, float("nan"), 2, 3]), "NaN or infinity (annotation ids): 1"),
    "infinity": (lambda content: annotation(content, bbox=[1, 2, float("inf"), 3]), "NaN or infinity"),
    "endless area": (
        lambda content: annotation(content, bbox=[1, 2, 1e200, 1e200], area=None),
        "1 boxes of infinite area or reach (annotation ids): 1",
    ),
    "endless reach": (lambda content: annotation(content, bbox=[1e308, 2, 1e308, 3]), "infinite area or reach"),
}


@pytest.mark.parametrize("case", NOT_FINITE)
def test_row_11_boxes_that_are_not_finite(refused, case):
    refused(*NOT_FINITE[case])


NOTHING_TO_SEE = {
    "zero width": (lambda content: annotation(content, bbox=[10, 10, 0, 30]), "1 boxes without width or height"),
    "negative height": (lambda content: annotation(content, bbox=[10, 10, 5, -30]), "1 boxes without width or height"),
    "outside": (lambda content: annotation(content, bbox=[500, 10, 5, 5]), "1 boxes outside their image"),
}


@pytest.mark.parametrize("case", NOTHING_TO_SEE)
def test_row_12_boxes_with_nothing_to_see_are_dropped_and_the_others_stay(repaired, case):
    boxes, labels = repaired(*NOTHING_TO_SEE[case]).objects(0)
    assert boxes.tolist() == [[70.5, 20.25, 90.5, 70.25]] and labels.tolist() == [0]


def test_row_13_boxes_partly_outside_are_clipped_for_training_and_as_written_for_evaluation(repaired):
    instances = repaired(lambda content: annotation(content, bbox=[-20, 10, 60, 300]), "1 boxes partly outside")
    assert instances.objects(0)[0][0].tolist() == [0, 10, 40, 90]
    assert [-20, 10, 60, 300] in [row["bbox"] for row in instances.ground_truth()["annotations"]]


ABSENT = {
    "without area": (lambda content: content["annotations"][1].pop("area"), '1 annotations without "area"'),
    "null area": (lambda content: annotation(content, area=None), '1 annotations without "area"'),
    "without iscrowd": (lambda content: content["annotations"][1].pop("iscrowd"), '1 annotations without "iscrowd"'),
}


@pytest.mark.parametrize("case", ABSENT)
def test_row_14_area_and_iscrowd_are_filled_in(repaired, case):
    truth = repaired(*ABSENT[case]).ground_truth()
    row = next(row for row in truth["annotations"] if row["id"] == 1)
    assert row["area"] == 1200 and row["iscrowd"] == 0


TEXT_IDS = {
    "text id": (lambda content: annotation(content, id="a1"), "annotation 'a1' has id 'a1'"),
    "text image id": (lambda content: annotation(content, image_id="5"), "annotation 1 has image_id '5'"),
}


@pytest.mark.parametrize("case", TEXT_IDS)
def test_row_15_ids_that_are_text(refused, case):
    assert refused(*TEXT_IDS[case]).endswith("id must be an integer")
