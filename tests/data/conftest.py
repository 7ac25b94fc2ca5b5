"""A small data set on disk: 16:9 and other JPEGs, ids with gaps, a crowd, an image without objects."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from neo_model.data import Augmentation, DetectionData, Resolution
from neo_model.data.coco import CocoInstances, read_coco

SIZES = [(160, 90), (128, 96), (90, 160), (161, 91), (160, 90), (320, 180), (160, 90)]
SIZE = (48, 32)  # of `picture`
CATEGORIES = [{"id": 7, "name": "tram"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}]


def small_instances() -> dict:
    """Annotations of seven images; the third has no boxes, the first also a crowd; class tram never occurs."""
    images = [
        {"id": 10 * index + 5, "file_name": f"{index}.jpg", "width": width, "height": height}
        for index, (width, height) in enumerate(SIZES)
    ]
    boxes = [(0, 3, [10, 10, 40, 30]), (0, 1, [70.5, 20.25, 20, 50]), (1, 3, [0, 0, 128, 96])]
    boxes += [(3, 1, [100, 50, 30, 20]), (4, 3, [5, 5, 20, 20]), (5, 1, [200, 100, 60, 50]), (6, 1, [30, 30, 30, 30])]
    annotations = [
        {
            "id": number + 1,
            "image_id": images[image]["id"],
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "segmentation": [[1.5, 2, 3]],
        }
        for number, (image, category, box) in enumerate(boxes)
    ]
    crowd = {"id": 90, "image_id": 5, "category_id": 1, "bbox": [0, 0, 90, 60], "area": 77.5, "iscrowd": 1}
    crowd["segmentation"] = {"counts": [1, 2, 3], "size": [90, 160]}
    categories = [dict(category) for category in CATEGORIES]
    return {"images": images, "annotations": [crowd, *annotations], "categories": categories}


def write_json(path: Path, content) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """images/, instances_train.json and an equal instances_val.json."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES):
        noise = generator.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.jpg"), cv2.resize(noise, (width, height)))
    for split in ("train", "val"):
        write_json(tmp_path / f"instances_{split}.json", small_instances())
    return tmp_path


@pytest.fixture
def make_data(root):
    """Builds ``DetectionData`` on ``root``; keywords replace the defaults."""

    def make(augment=None, resolution=None, **options) -> DetectionData:
        arguments = {
            "name": "small",
            "train_images": str(root / "images"),
            "train_annotations": str(root / "instances_train.json"),
            "val_images": str(root / "images"),
            "val_annotations": str(root / "instances_val.json"),
            "resolution": Resolution(**(resolution or {"width": 160, "height": 90})),
            "augment": Augmentation(**(augment or {})),
        }
        return DetectionData(**{**arguments, **options})

    return make


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real photos; the tests that need them are left out without."""
    if "NEO_MODEL_TEST_DATA" not in os.environ:
        pytest.skip("NEO_MODEL_TEST_DATA is not set")
    return Path(os.environ["NEO_MODEL_TEST_DATA"])


def instances_named(root: Path, name: str) -> CocoInstances:
    """The small annotations with another name for their first image."""
    content = small_instances()
    content["images"][0]["file_name"] = name
    return read_coco(write_json(root / "renamed.json", content))


@pytest.fixture
def picture():
    """RGB uint8 [32, 48, 3]: left half (200, 40, 90), right half (10, 220, 60)."""
    picture = np.empty((32, 48, 3), np.uint8)
    picture[:, :24], picture[:, 24:] = (200, 40, 90), (10, 220, 60)
    return picture
