"""A validation set as large as COCO's, with what a detector of middling quality finds in it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

IMAGE_WH = (640, 480)
OBJECTS_AN_IMAGE = 7.4  # COCO val2017: 36,781 in 5,000 images
CROWD_SHARE = 0.01
NEAR_SHARE = 0.4  # of the detections, around an object; the others are anywhere
RIGHT_CLASS_SHARE = 0.8  # of those around an object


@dataclass(frozen=True)
class CocoCase:
    """Objects in rows sorted by image, and as many detections for every image, best first.

    Attributes:
        object_images: int64 [G], from 0.
        object_classes: int64 [G], from 0.
        objects_xywh: float64 [G, 4] in pixels.
        crowd: bool [G].
        boxes_xyxy: float32 [I, D, 4] in pixels.
        scores: float32 [I, D].
        labels: int64 [I, D].
        num_classes: array of one number.
    """

    object_images: np.ndarray
    object_classes: np.ndarray
    objects_xywh: np.ndarray
    crowd: np.ndarray
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    num_classes: np.ndarray

    def save(self, path: Path) -> None:
        """Write all of it to a .npz file."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "CocoCase":
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)

    def ground_truth(self) -> dict:
        """The objects as a COCO dictionary; ids count from 1."""
        columns = (self.object_images, self.object_classes, self.objects_xywh, self.crowd)
        annotations = [
            {"id": row, "image_id": image + 1, "category_id": of_class + 1, "bbox": box_xywh,
             "area": box_xywh[2] * box_xywh[3], "iscrowd": int(crowd)}
            for row, (image, of_class, box_xywh, crowd) in enumerate(zip(*(c.tolist() for c in columns)), start=1)
        ]  # fmt: skip
        width, height = IMAGE_WH
        images = [{"id": i + 1, "width": width, "height": height} for i in range(len(self.scores))]
        categories = [{"id": k + 1, "name": f"class {k + 1}"} for k in range(int(self.num_classes))]
        return {"images": images, "annotations": annotations, "categories": categories}

    def results(self) -> list[dict]:
        """The detections as COCO results, a dictionary each."""
        boxes = self.boxes_xyxy.astype(np.float64)
        boxes[..., 2:] -= boxes[..., :2]
        return [
            {"image_id": i + 1, "category_id": label + 1, "bbox": box_xywh, "score": score}
            for i in range(len(boxes))
            for box_xywh, score, label in zip(boxes[i].tolist(), self.scores[i].tolist(), self.labels[i].tolist())
        ]


def make_coco_case(*, num_images: int, num_detections: int, num_classes: int, seed: int = 0) -> CocoCase:
    """Few classes to an image, the first ones often, as in COCO; sizes from 6 to 400 pixels, a third each S, M, L."""
    random = np.random.default_rng(seed)
    counts = random.poisson(random.exponential(OBJECTS_AN_IMAGE, num_images))
    frequency = 1 / np.arange(1, num_classes + 1)
    of_image = random.choice(num_classes, (num_images, 3), p=frequency / frequency.sum())
    object_images = np.repeat(np.arange(num_images), counts)
    object_classes = of_image[object_images, random.integers(0, 3, len(object_images))]
    objects_xywh = _random_boxes(random, len(object_images))
    boxes_xywh = _random_boxes(random, num_images * num_detections)
    images = np.repeat(np.arange(num_images), num_detections)
    labels = of_image[images, random.integers(0, 3, len(images))]
    scores = random.beta(1, 12, len(images))

    near = np.flatnonzero((random.random(len(images)) < NEAR_SHARE) & (counts[images] > 0))
    first = np.cumsum(counts) - counts
    objects = first[images[near]] + random.integers(0, counts[images[near]])
    noise = random.exponential(0.12, len(near))
    sizes = objects_xywh[objects][:, [2, 3, 2, 3]]
    boxes_xywh[near] = objects_xywh[objects] + random.normal(0, 1, (len(near), 4)) * noise[:, None] * sizes
    boxes_xywh[near, 2:] = np.maximum(boxes_xywh[near, 2:], 1.0)
    is_right = random.random(len(near)) < RIGHT_CLASS_SHARE
    labels[near[is_right]] = object_classes[objects[is_right]]
    scores[near] = random.beta(2, 4, len(near)) * np.exp(-3 * noise) * np.where(is_right, 1.0, 0.6)

    shape = (num_images, num_detections)
    order = np.argsort(-scores.reshape(shape), axis=1)
    boxes_xyxy = np.concatenate((boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]), axis=1)
    return CocoCase(
        object_images=object_images,
        object_classes=object_classes,
        objects_xywh=objects_xywh,
        crowd=random.random(len(object_images)) < CROWD_SHARE,
        boxes_xyxy=np.take_along_axis(boxes_xyxy.reshape(*shape, 4), order[..., None], axis=1).astype(np.float32),
        scores=np.take_along_axis(scores.reshape(shape), order, axis=1).astype(np.float32),
        labels=np.take_along_axis(labels.reshape(shape), order, axis=1),
        num_classes=np.array(num_classes),
    )


def _random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """float64 xywh [count, 4] inside the image."""
    size = np.exp(random.uniform(np.log(6), np.log(400), count))[:, None] * random.uniform(0.7, 1.4, (count, 2))
    size = np.minimum(size, IMAGE_WH)
    return np.concatenate((random.random((count, 2)) * (np.array(IMAGE_WH) - size), size), axis=1)
