"""The loader on real photos (NEO_MODEL_TEST_DATA)."""

import numpy as np
import pytest

from neo_model.data import Augmentation, DetectionData, Resolution


@pytest.fixture(params=["bccd", "urban_traffic"])
def data(request, photos):
    root = photos / request.param
    return DetectionData(
        name=request.param,
        train_images=str(root / "images"),
        train_annotations=str(root / "instances_train.json"),
        val_images=str(root / "images"),
        val_annotations=str(root / "instances_val.json"),
        resolution=Resolution(width=640, height=360),
        augment=Augmentation(photometric=0.5, zoom_out=0.5, iou_crop=0.8, flip=0.5),
    )


def test_annotated_boxes_come_back_exactly_from_the_network_input(data):
    truth = data.val_ground_truth()
    written = {image["id"]: [] for image in truth["images"]}
    for row in truth["annotations"]:
        x, y, width, height = row["bbox"]
        written[row["image_id"]].append([x, y, x + width, y + height])
    dataset = data.val_dataset()
    for index in range(len(dataset)):
        image, target = dataset[index]
        boxes = target["boxes"].double().numpy() * [640, 360, 640, 360]
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        np.testing.assert_allclose(target["affine"].invert(corners), written[target["image_id"]], atol=0.01)
        assert image.shape == (3, 360, 640)


def test_an_augmented_epoch_has_objects_and_sound_boxes(data):
    loader = data.train_loader(batch_size=4, workers=2, prefetch=2, pin_memory=False, seed=0)
    boxes = np.concatenate([target["boxes"] for _, targets in loader.epoch(0) for target in targets])
    loader.close()
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    assert len(boxes) > 4 * len(loader)
    assert low.min() > -1e-5 and high.max() < 1 + 1e-5
    assert ((high - low) * [640, 360]).min() > 0.99
