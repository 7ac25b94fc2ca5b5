import json
import shlex
import shutil

import pytest

from neo_model.config.build import build_data
from neo_model.config.simple import read_settings
from neo_model.data.prepare import SETTINGS
from neo_model.utils import UserError
from neo_model.utils.quoting import quoted
from tests.data.conftest import small_instances, write_json


def test_prepare_names_all_that_is_missing_and_the_command(make_data, root):
    shutil.rmtree(root / "images")
    (root / "instances_val.json").unlink()
    data = make_data(name="coco", fetch_hint="python -m neo_model.data.prepare")
    with pytest.raises(UserError) as caught:
        data.prepare()
    message = str(caught.value)
    assert message.startswith("data=coco: missing ")
    assert message.endswith("fetch them with `python -m neo_model.data.prepare`")
    assert message.count(str(root / "images")) == 1 and "instances_val.json" in message


def test_the_command_that_fetches_can_be_typed_whatever_the_folder_is_called(tmp_path):
    root = tmp_path / "my coco (new)"
    with pytest.raises(UserError) as caught:
        build_data(["data=coco", f"data.root={quoted(str(root))}"]).prepare()
    *command, argument = shlex.split(str(caught.value).split("`")[1])
    assert command == ["python", "-m", "neo_model.data.prepare"]
    assert read_settings("prepare", [argument], SETTINGS)["root"] == str(root)


def test_prepare_passes_without_reading(make_data, root):
    (root / "instances_train.json").write_text("{")
    make_data().prepare()


def test_classes_come_from_the_training_annotations(make_data):
    classes = make_data().classes
    assert classes.names == ["person", "car", "tram"] and classes.category_ids == [1, 3, 7] and len(classes) == 3


def test_an_empty_folder_stops_before_training(make_data, root):
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="7 of 7 images"):
        make_data().train_dataset()


def test_validation_with_other_classes_is_refused_with_the_differences(make_data, root):
    content = small_instances()
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 3, "name": "lorry"}, {"id": 9, "name": "dog"}]
    content["categories"].append({"id": 7, "name": "tram"})
    write_json(root / "instances_val.json", content)
    with pytest.raises(UserError) as caught:
        make_data().check_same_classes()
    message = str(caught.value)
    assert "4 classes are not the 3" in message
    assert "id 3 is 'car' and 'lorry'" in message and "id 9 is 'absent' and 'dog'" in message


def test_every_image_is_used_also_those_without_boxes(make_data):
    dataset = make_data().train_dataset()
    assert len(dataset) == 7
    image, target = dataset[2]
    assert image.shape == (3, 90, 160) and target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)


def test_overfit_trains_and_validates_on_the_same_images_with_boxes_untouched(make_data):
    augment = {"zoom_out": 1, "photometric": 1, "flip": 1}
    data = make_data(augment, {"width": 160, "height": 90, "train_sizes": [[128, 72], [192, 108]]})
    train, val = data.train_dataset(overfit=3), data.val_dataset(overfit=3)
    assert [train[index][1]["image_id"] for index in range(3)] == [5, 15, 35]
    assert len(train) == len(val) == 3
    loader = data.train_loader(batch_size=3, workers=0, prefetch=2, pin_memory=False, seed=0, overfit=3)
    images, targets = next(loader.epoch(0))
    assert images.shape == (3, 3, 90, 160)
    for image, target in zip(images, targets, strict=True):
        position = [5, 15, 35].index(target["image_id"])
        assert (val[position][0] == image).all() and (val[position][1]["boxes"] == target["boxes"]).all()
    truth = data.val_ground_truth(overfit=3)
    assert [image["id"] for image in truth["images"]] == [5, 15, 35]
    assert len(truth["annotations"]) == 5


def test_overfit_on_more_images_than_there_are_says_how_many_there_are(make_data, caplog):
    data = make_data()
    size = {"batch_size": 3, "workers": 0, "prefetch": 2, "pin_memory": False, "overfit": 1000}
    data.train_loader(**size, seed=0), data.val_loader(**size), data.val_ground_truth(1000)
    said = f"overfit=1000: there are only {len(data.val_dataset(1000))} training images with boxes"
    assert [record.getMessage() for record in caplog.records if "overfit" in record.getMessage()] == [said]


def test_overfit_does_not_need_the_validation_files(make_data, root):
    (root / "instances_val.json").unlink()
    assert len(make_data().val_dataset(overfit=2)) == 2


def test_overfit_without_any_box_is_refused(make_data, root):
    write_json(root / "instances_train.json", {**small_instances(), "annotations": []})
    with pytest.raises(UserError, match="no image with a box"):
        make_data().train_dataset(overfit=5)


def test_training_leaves_out_boxes_under_a_pixel_and_evaluation_keeps_them(make_data, root):
    content = small_instances()
    content["annotations"][-1]["bbox"] = [30, 30, 0.5, 30]
    for split in ("train", "val"):
        write_json(root / f"instances_{split}.json", content)
    data = make_data()
    assert len(data.train_dataset()[6][1]["boxes"]) == 0
    assert len(data.val_dataset()[6][1]["boxes"]) == 1
    assert len(data.val_ground_truth()["annotations"]) == len(content["annotations"])


@pytest.mark.parametrize(("fit", "left"), [("letterbox", 20), ("stretch", 0)])
def test_fit_decides_how_another_shape_fills_the_input(make_data, fit, left):
    image, target = make_data(fit=fit).val_dataset()[1]  # 128 x 96 into 160 x 90
    assert target["affine"].offset_x == left
    assert bool(image[:, :, :left].any()) is False
    assert image[:, :, left:].any()


def test_ground_truth_is_plain_json(make_data):
    json.dumps(make_data().val_ground_truth(), allow_nan=False)


def test_the_public_names_import():
    from neo_model.data import Augmentation, Classes, DetectionData, Resolution

    assert all((Augmentation, Classes, DetectionData, Resolution))
