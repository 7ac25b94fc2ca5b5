"""What an annotation file says about its objects and images, in numbers; no image is opened.

Letters in shapes: M objects, N images, C classes.
"""

from dataclasses import dataclass

import numpy as np

from neo_model.data.coco import CocoInstances

SMALL_SIDES = (8, 16, 32)  # pixels; objects under 8 leave nothing on the coarser maps, COCO calls those under 32 small
WIDTHS_16_9 = (640, 960, 1280, 1600, 1920, 2240)
PLACES_WH = (64, 36)  # cells of the map of centres


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """Of the training or validation set, crowds not counted.

    Attributes:
        num_images: all, with and without objects.
        boxes: int64 [C], objects of each class.
        images: int64 [C], images with each class.
        objects_an_image: int64 [N].
        sizes: float64 [M], square root of each box's area in pixels of the network's input.
        small: by width of a 16:9 input, the parts of the boxes under ``SMALL_SIDES``.
        aspects: float64 [M], width over height.
        places: int64 [36, 64], how many centres lie in each cell of an image.
        image_sizes: the images' (width, height) and how many have it, most frequent first.
    """

    num_images: int
    boxes: np.ndarray
    images: np.ndarray
    objects_an_image: np.ndarray
    sizes: np.ndarray
    small: dict[int, list[float]]
    aspects: np.ndarray
    places: np.ndarray
    image_sizes: list[tuple[tuple[int, int], int]]

    @property
    def num_boxes(self) -> int:
        """Objects of all classes."""
        return len(self.sizes)

    def small_parts(self) -> list[float]:
        """The parts of the boxes under ``SMALL_SIDES`` at the chosen input size."""
        return under(self.sizes)


def split_statistics(instances: CocoInstances, size_wh: tuple[int, int], fit: str) -> SplitStatistics:
    """Count.

    Args:
        instances: the annotations.
        size_wh: the network's input in pixels.
        fit: "letterbox" or "stretch".
    """
    single = ~instances.crowd
    of_image = np.repeat(np.arange(len(instances)), np.diff(instances.offsets))[single]
    boxes_xywh, labels = instances.boxes_xywh[single], instances.labels[single]
    num_classes = len(instances.classes)
    pairs = np.unique(of_image * num_classes + labels)
    sizes_wh = instances.sizes_wh[of_image].astype(np.float64)
    sides = np.maximum(boxes_xywh[:, 2:], 0)
    centres = np.clip((boxes_xywh[:, :2] + sides / 2) / sizes_wh, 0, 1 - 1e-9)
    columns, rows = (centres * PLACES_WH).astype(np.int64).T
    widths, numbers = np.unique(instances.sizes_wh, axis=0, return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    return SplitStatistics(
        num_images=len(instances),
        boxes=np.bincount(labels, minlength=num_classes),
        images=np.bincount(pairs % num_classes, minlength=num_classes),
        objects_an_image=np.bincount(of_image, minlength=len(instances)),
        sizes=input_sizes(sides, sizes_wh, size_wh, fit),
        small={width: under(input_sizes(sides, sizes_wh, (width, width * 9 // 16), fit)) for width in WIDTHS_16_9},
        aspects=sides[:, 0] / np.maximum(sides[:, 1], 1e-9),
        places=np.bincount(rows * PLACES_WH[0] + columns, minlength=PLACES_WH[0] * PLACES_WH[1]).reshape(
            PLACES_WH[::-1]
        ),
        image_sizes=[((int(w), int(h)), int(n)) for (w, h), n in zip(widths[order], numbers[order], strict=True)],
    )


def input_sizes(sides: np.ndarray, sizes_wh: np.ndarray, size_wh: tuple[int, int], fit: str) -> np.ndarray:
    """Square root of the areas of boxes with these sides [M, 2], in images of ``sizes_wh`` [M, 2], once in the input."""
    scales = np.asarray(size_wh) / sizes_wh
    if fit == "letterbox":
        scales = scales.min(axis=1, keepdims=True)
    return np.sqrt((sides * scales).prod(axis=1))


def under(sizes: np.ndarray) -> list[float]:
    """The parts of the sizes under ``SMALL_SIDES``; 0 without any."""
    return [float(np.count_nonzero(sizes < side) / max(1, len(sizes))) for side in SMALL_SIDES]
