"""The geometry of augmentation: a random window on the image and a random mirror; one decode, one resize.

Zoom-out and crop only choose *which rectangle of the source plane the network sees*. With the fit (letterbox or
stretch) they are one affine, so every pixel is interpolated once, at its final size. The order and the ranges are those
of RT-DETR's recipe: colours, zoom-out (SSD), IoU crop (SSD), flip.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np

from neo_model.ops.geometry import Placement, letterbox, stretch, view
from neo_model.utils import Fraction, NonNegativeInt

Fit = Literal["letterbox", "stretch"]
# From a uint8 [h, w, 3] image to another one of the same shape.
Recolor = Callable[[np.ndarray], np.ndarray]
FITS = {"letterbox": letterbox, "stretch": stretch}

# Black, as in the recipe that the published weights were trained with.
FILL = 0
ZOOM_OUT_LARGEST = 4.0
CROP_SMALLEST = 0.3
CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)
CROP_TRIALS = 40
CROP_LARGEST_ASPECT = 2.0


class Augmentation:
    """What training does to a sample; each number is a probability.

    Args:
        photometric: of each of brightness, contrast, saturation, hue and a channel swap (SSD's distortion).
        zoom_out: of showing the image at 1 to 1/4 of its size somewhere on a black canvas.
        iou_crop: of a random crop of 0.3 to 1 of each side around at least one object.
        flip: of mirroring left to right.
        color: of a mild change of brightness, contrast, saturation and hue together.
        extra: transforms of albumentations that come after all of these: from a class's name to its arguments.
        until: epoch from which only ``flip`` stays; None for never.

    Raises:
        UserError: a transform in ``extra`` does not exist, refuses its arguments or changes the picture's size.
    """

    def __init__(
        self,
        *,
        photometric: Fraction = 0,
        zoom_out: Fraction = 0,
        iou_crop: Fraction = 0,
        flip: Fraction = 0,
        color: Fraction = 0,
        extra: dict[str, dict] | None = None,
        until: NonNegativeInt | None = None,
    ) -> None:
        self.photometric, self.color = photometric, color
        self.zoom_out, self.iou_crop, self.flip = zoom_out, iou_crop, flip
        self.extra = extra or {}
        self.until = until
        if self.extra:
            from neo_model.data.augmenter import extra_transforms

            extra_transforms(self.extra)

    @property
    def changes_anything(self) -> bool:
        """Whether a sample may differ from the image as it is."""
        return any([self.photometric, self.color, self.zoom_out, self.iou_crop, self.flip, self.extra])

    def smallest_part(self, strong: bool) -> float:
        """The least part of each side of an image that a sample shows, all over the input."""
        return CROP_SMALLEST if strong and self.iou_crop else 1.0

    def is_strong_at(self, epoch: int) -> bool:
        """Whether everything, not only ``flip``, is on in this epoch."""
        return self.until is None or epoch < self.until


def random_placement(
    generator: np.random.Generator,
    augment: Augmentation,
    strong: bool,
    boxes_xyxy: np.ndarray,
    whole: Placement,
    target_wh: tuple[int, int],
    fit: Fit,
) -> Placement:
    """Draw zoom-out, crop and flip.

    Args:
        generator: the sample's own.
        augment: the probabilities.
        strong: whether zoom-out and crop are on.
        boxes_xyxy: objects [n, 4] in source pixels.
        whole: where the untouched image would go.
        target_wh: input size in pixels.
        fit: letterbox keeps the shape of things in crops too; stretch lets a crop have another shape than the input.
    """
    placement = whole
    if strong:
        source_wh = whole.source.width, whole.source.height
        window = start = whole.affine.invert(np.array([0.0, 0.0, *target_wh]))
        if generator.random() < augment.zoom_out:
            window = zoomed_out(generator, window)
        if generator.random() < augment.iou_crop:
            window = cropped(generator, window, boxes_xyxy, keep_shape=fit == "letterbox")
        if window is not start:
            placement = view(source_wh, tuple(window.tolist()), target_wh)
    return replace(placement, mirrored=bool(generator.random() < augment.flip))


def zoomed_out(generator: np.random.Generator, window_xyxy: np.ndarray) -> np.ndarray:
    """A window up to four times as wide and high that contains this one."""
    size = window_xyxy[2:] - window_xyxy[:2]
    ratio = generator.uniform(1, ZOOM_OUT_LARGEST)
    corner = window_xyxy[:2] - generator.uniform(0, 1, 2) * (ratio - 1) * size
    return np.concatenate([corner, corner + ratio * size])


def cropped(
    generator: np.random.Generator, window_xyxy: np.ndarray, boxes_xyxy: np.ndarray, keep_shape: bool
) -> np.ndarray:
    """A part of the window that overlaps some object by a random minimum and holds that object's centre.

    A minimum is drawn and tried 40 times; then another is, until one succeeds or "no crop" is drawn.

    Args:
        generator: the sample's own.
        window_xyxy: [4] in source pixels.
        boxes_xyxy: objects [n, 4] in source pixels; without any, the window stays.
        keep_shape: whether the crop has the window's shape, or any between 1:2 and 2:1 in source pixels.
    """
    if not len(boxes_xyxy):
        return window_xyxy
    size = window_xyxy[2:] - window_xyxy[:2]
    while True:
        overlap = CROP_OVERLAPS[generator.integers(len(CROP_OVERLAPS))]
        if overlap is None:
            return window_xyxy
        sides = generator.uniform(CROP_SMALLEST, 1, (CROP_TRIALS, 2))
        if keep_shape:
            sides[:, 1] = sides[:, 0]
        corners = window_xyxy[:2] + generator.uniform(0, 1, (CROP_TRIALS, 2)) * (1 - sides) * size
        crops = np.concatenate([corners, corners + sides * size], axis=1)
        good = _overlap_of_crops(crops, boxes_xyxy) >= overlap
        if not keep_shape:
            aspect = sides[:, 0] * size[0] / (sides[:, 1] * size[1])
            good &= (aspect >= 1 / CROP_LARGEST_ASPECT) & (aspect <= CROP_LARGEST_ASPECT)
        if good.any():
            return crops[good.argmax()]


def _overlap_of_crops(crops_xyxy: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    """Largest IoU [k] of each crop with an object whose centre it holds; -1 where it holds none."""
    crops, boxes = crops_xyxy[:, None], boxes_xyxy[None].astype(np.float64)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside = ((centres > crops[..., :2]) & (centres < crops[..., 2:])).all(axis=-1)
    shared = (np.minimum(crops[..., 2:], boxes[..., 2:]) - np.maximum(crops[..., :2], boxes[..., :2])).clip(0).prod(-1)
    areas = (crops[..., 2:] - crops[..., :2]).prod(-1) + (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return np.where(inside, shared / (areas - shared), -1.0).max(axis=1)


def render(image: np.ndarray, placement: Placement, canvas: np.ndarray, recolor: Recolor | None = None) -> None:
    """Resize the visible part of an image once, into its place.

    Args:
        image: uint8 [H, W, 3].
        placement: what is visible, and where.
        canvas: the network's input, uint8 [height, width, 3]; all of it is written.
        recolor: used on the visible part, not on the border.
    """
    source, target = placement.source, placement.target
    part = image[source.rows, source.columns]
    if placement.mirrored:
        target = target._replace(x=canvas.shape[1] - target.x - target.width)
    if (target.height, target.width) != canvas.shape[:2]:
        canvas.fill(FILL)
    place = canvas[target.rows, target.columns]
    # Colours and mirroring cost by the pixel: they come before a resize that enlarges, and after one that shrinks.
    if part.size <= place.size:
        part = part if recolor is None else recolor(part)
        if part.shape == place.shape:
            _paste(part, place, placement.mirrored)
        else:
            _resize(cv2.flip(part, 1) if placement.mirrored else part, place)
    elif recolor is None and not placement.mirrored:
        _resize(part, place)
    else:
        part = _resize(part, np.empty(place.shape, np.uint8))
        _paste(part if recolor is None else recolor(part), place, placement.mirrored)


def _paste(part: np.ndarray, place: np.ndarray, mirrored: bool) -> None:
    if mirrored:
        cv2.flip(part, 1, dst=place)
    else:
        np.copyto(place, part)


def resized(image: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """An image uint8 [H, W, 3] at this width and height, as ``render`` would show all of it."""
    if image.shape[1::-1] == size_wh:
        return image
    return _resize(image, np.empty((size_wh[1], size_wh[0], 3), np.uint8))


def _resize(part: np.ndarray, place: np.ndarray) -> np.ndarray:
    """``part`` at the size of ``place`` and in it."""
    height, width = place.shape[:2]
    # Down to a half, bilinear weights still reach every source pixel; below, it would skip some, and averaging
    # areas (five times slower at 1080p) is needed against aliasing.
    shrinks = 2 * width < part.shape[1] or 2 * height < part.shape[0]
    return cv2.resize(part, (width, height), dst=place, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def place_objects(
    boxes_xyxy: np.ndarray, placement: Placement, smallest_side: float
) -> tuple[np.ndarray, np.ndarray]:
    """Map boxes into the input, clip them to what is visible, and tell which stay.

    A box goes when its centre is out of sight or when a visible side is under ``smallest_side`` pixels of the input.

    Returns:
        boxes_xyxy float64 [n, 4] of those that stay, in pixels of the input, and the mask [m] over all.
    """
    affine = placement.affine
    mapped = affine.apply(boxes_xyxy.astype(np.float64))
    part = placement.source
    edges = affine.apply(np.array([part.x, part.y, part.x + part.width, part.y + part.height], np.float64))
    centres = (mapped[:, :2] + mapped[:, 2:]) / 2
    low, high = np.clip(mapped[:, :2], edges[:2], edges[2:]), np.clip(mapped[:, 2:], edges[:2], edges[2:])
    kept = ((centres >= edges[:2]) & (centres <= edges[2:]) & (high - low >= smallest_side)).all(axis=1)
    return np.concatenate([low[kept], high[kept]], axis=1), kept


def as_targets(boxes_xyxy: np.ndarray, target_wh: tuple[int, int]) -> np.ndarray:
    """boxes_cxcywh float32 [n, 4] as fractions of the input, from pixels of it."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    boxes_cxcywh = np.concatenate([(low + high) / 2, high - low], axis=1) / np.tile(target_wh, 2)
    return boxes_cxcywh.astype(np.float32)
