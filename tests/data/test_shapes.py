"""The generated data set: the same everywhere, valid COCO, and worth learning from."""

import contextlib
import hashlib
import io
import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from neo_model.data import Augmentation, Resolution, ShapesData, shapes
from neo_model.data.scenes import Layers, draw_scene, write_scenes
from neo_model.data.sprites import CLASS_NAMES, Sprite, draw_sprite
from neo_model.utils import UserError


def generate(folder: Path, *, width=160, height=90, train=12, val=4, seed=0, workers=1) -> Path:
    folder.mkdir()
    counts = {"train": train, "val": val}
    done = list(write_scenes(folder, width=width, height=height, counts=counts, seed=seed, workers=workers))
    assert done == list(range(1, train + val + 1))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shapes_data(root: Path, *, num_train=6, num_val=3, seed=0, width=160, height=90) -> ShapesData:
    resolution = Resolution(width=width, height=height)
    return ShapesData(
        root=str(root),
        num_train=num_train,
        num_val=num_val,
        seed=seed,
        resolution=resolution,
        augment=Augmentation(),
    )


@pytest.fixture(scope="module")
def large_set(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("large") / "set", width=480, height=270, train=150, val=20, workers=2)


def load(folder: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(folder / f"instances_{split}.json"))


def test_files_are_the_same_bit_for_bit_with_any_number_of_workers(tmp_path):
    alone = hashes(generate(tmp_path / "one", workers=1))
    together = hashes(generate(tmp_path / "many", workers=5))
    assert alone == together
    assert len(alone) == 12 + 4 + 2


def test_another_seed_draws_other_pictures_and_validation_is_not_training(tmp_path):
    first = hashes(generate(tmp_path / "zero", seed=0))
    other = hashes(generate(tmp_path / "one", seed=1))
    assert all(first[name] != other[name] for name in first)
    assert first["train/000000.jpg"] != first["val/000000.jpg"]


def test_a_longer_set_begins_with_the_shorter_one(tmp_path):
    short = hashes(generate(tmp_path / "short", train=4))
    long = hashes(generate(tmp_path / "long", train=9))
    assert all(long[f"train/{index:06d}.jpg"] == short[f"train/{index:06d}.jpg"] for index in range(4))


@pytest.mark.parametrize("size", [(64, 36), (160, 90), (320, 320)])
def test_any_size_can_be_drawn(size):
    width, height = size
    for index in range(10):
        scene = draw_scene(np.random.default_rng(index), width, height)
        assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8


@pytest.mark.parametrize("split", ["train", "val"])
def test_files_are_valid_coco_with_jpegs_of_the_size_they_claim(large_set, split):
    coco = load(large_set, split)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASS_NAMES)
    for image in coco.loadImgs(coco.getImgIds()):
        path = large_set / split / image["file_name"]
        assert path.read_bytes()[:3] == b"\xff\xd8\xff"
        assert cv2.imread(str(path)).shape == (image["height"], image["width"], 3)
    assert len(list((large_set / split).iterdir())) == len(coco.imgs)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        x, y, width, height = annotation["bbox"]
        assert x >= 0 and y >= 0 and width >= 1 and height >= 1
        assert x + width <= 480 and y + height <= 270
        assert annotation["area"] == width * height and annotation["iscrowd"] == 0


def test_objects_span_tiny_to_half_the_picture_and_all_classes_are_common(large_set):
    annotations = load(large_set, "train").dataset["annotations"]
    longest = np.array([max(annotation["bbox"][2:]) for annotation in annotations])
    assert longest.min() < 16
    assert 0.5 <= longest.max() / 270 <= 0.56
    assert 0.02 < (longest < 20).mean() < 0.16
    share = np.bincount([annotation["category_id"] for annotation in annotations], minlength=6)[1:] / len(annotations)
    assert share.min() > 0.12


def test_some_pictures_are_empty_and_none_holds_more_than_eight(large_set):
    coco = load(large_set, "train")
    counts = np.array([len(coco.getAnnIds(imgIds=[image_id])) for image_id in coco.getImgIds()])
    assert 0.01 < (counts == 0).mean() < 0.15
    assert 6 <= counts.max() <= 8


def test_some_objects_overlap_and_some_touch_the_border(large_set):
    coco = load(large_set, "train")
    overlapping = touching = 0
    for image_id in coco.getImgIds():
        boxes = np.array([note["bbox"] for note in coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))]).reshape(-1, 4)
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        shared = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
        overlapping += int(np.triu((shared > 2).all(axis=2), k=1).any())
        touching += int((low == 0).any() or (high == [480, 270]).any())
    assert overlapping > 15
    assert touching > 5


def test_pictures_are_textured_and_differ_in_brightness(large_set):
    pictures = [cv2.imread(str(path)) for path in sorted((large_set / "train").iterdir())[:40]]
    fine = [cv2.absdiff(picture, cv2.blur(picture, (9, 9))).mean() for picture in pictures]
    assert np.median(fine) > 1.5
    assert min(picture.std(axis=(0, 1)).max() for picture in pictures) > 8
    assert np.std([picture.mean() for picture in pictures]) > 20


@pytest.mark.parametrize("label", range(len(CLASS_NAMES)))
@pytest.mark.parametrize("size", [12.0, 47.5, 300.0])
def test_a_sprite_is_as_large_as_asked_and_not_cut_by_its_patch(label, size):
    for seed in range(5):
        sprite = draw_sprite(np.random.default_rng(seed), label, size, light_angle=-1.0)
        _, _, width, height = cv2.boundingRect((sprite.alpha > 0.1).astype(np.uint8))
        assert abs(max(width, height) - size) <= max(2.0, 0.02 * size)
        border = [sprite.alpha[0], sprite.alpha[-1], sprite.alpha[:, 0], sprite.alpha[:, -1]]
        assert max(edge.max() for edge in border) == 0
        assert sprite.color.min() >= 0 and sprite.color.max() <= 1


def square_sprite(side: int) -> Sprite:
    return Sprite(color=np.ones((3, side, side), np.float32), alpha=np.ones((side, side), np.float32))


def test_nothing_is_hidden_for_the_most_part():
    rng = np.random.default_rng(0)
    layers = Layers(32, 18)
    layers.add(0, square_sprite(10), (10, 4))
    for _ in range(50):
        corner = layers.find_place(rng, square_sprite(16))
        if corner is not None:
            x, y = corner
            shared = max(0, min(20, x + 16) - max(10, x)) * max(0, min(14, y + 16) - max(4, y))
            assert shared <= 60


def test_boxes_frame_what_is_left_in_sight():
    layers = Layers(40, 30)
    layers.add(0, square_sprite(10), (5, 5))
    layers.add(1, square_sprite(12), (10, 4))
    layers.add(2, square_sprite(8), (36, 26))
    assert layers.visible_box_xywh(0) == (5, 5, 5, 10)
    assert layers.visible_box_xywh(1) == (10, 4, 12, 12)
    assert layers.visible_box_xywh(2) == (36, 26, 4, 4)


def test_first_use_generates_and_the_next_leaves_all_alone(tmp_path):
    data = shapes_data(tmp_path / "shapes")
    data.prepare()
    assert data.folder == tmp_path / "shapes" / "160x90-seed0-6+3"
    before = {path: path.stat().st_mtime_ns for path in data.folder.rglob("*")}
    shapes_data(tmp_path / "shapes").prepare()
    assert {path: path.stat().st_mtime_ns for path in data.folder.rglob("*")} == before
    assert list(data.folder.parent.iterdir()) == [data.folder]


def test_it_is_a_detection_data_set(tmp_path):
    data = shapes_data(tmp_path)
    data.prepare()
    assert data.classes.names == list(CLASS_NAMES)
    dataset = data.val_dataset()
    assert len(dataset) == 3
    assert tuple(dataset[0][0].shape) == (3, 90, 160)


@pytest.mark.parametrize("damage", ["stamp", "picture", "annotations", "generator"])
def test_a_damaged_or_outdated_set_is_drawn_again(tmp_path, damage):
    data = shapes_data(tmp_path)
    data.prepare()
    whole = hashes(data.folder)
    if damage == "generator":
        stamp = json.loads((data.folder / "stamp.json").read_text())
        (data.folder / "stamp.json").write_text(json.dumps(stamp | {"generator": -1}))
    else:
        name = {"stamp": "stamp.json", "picture": "train/000003.jpg", "annotations": "instances_val.json"}[damage]
        (data.folder / name).unlink()
    shapes_data(tmp_path).prepare()
    assert hashes(data.folder) == whole


def test_an_interrupted_generation_leaves_nothing_behind(tmp_path, monkeypatch):
    def break_off(folder, **arguments):
        for done in write_scenes(folder, **arguments):
            if done == 3:
                raise KeyboardInterrupt
            yield done

    data = shapes_data(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "write_scenes", break_off)
        with pytest.raises(KeyboardInterrupt):
            data.prepare()
    assert list(tmp_path.iterdir()) == []
    data.prepare()
    assert len(list((data.folder / "train").iterdir())) == 6


def test_processes_that_start_together_end_with_one_whole_set(tmp_path):
    threads = [threading.Thread(target=shapes_data(tmp_path).prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = shapes_data(tmp_path)
    assert len(hashes(data.folder)) == 6 + 3 + 3
    assert list(tmp_path.iterdir()) == [data.folder]


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="data.root=DIR"):
        shapes_data(tmp_path / "file" / "shapes").prepare()
