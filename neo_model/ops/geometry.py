"""Where an image lands in the network's input: one affine for pixels and boxes, and its exact inverse.

Coordinates are continuous: pixel i covers [i, i + 1), so an image of width w spans 0 to w and no half-pixel term
appears.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch


class Rectangle(NamedTuple):
    """A whole-pixel rectangle: left edge, top edge, size."""

    x: int
    y: int
    width: int
    height: int

    @property
    def rows(self) -> slice:
        return slice(self.y, self.y + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.x, self.x + self.width)


@dataclass(frozen=True)
class Affine:
    """``network = source * scale + offset`` along each axis, in pixels. A negative ``scale_x`` mirrors."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def apply(self, boxes_xyxy):
        """Map boxes [..., 4] (numpy or torch) from source pixels to network pixels."""
        scale, offset = self._vectors(boxes_xyxy)
        return self._ordered(boxes_xyxy * scale + offset)

    def invert(self, boxes_xyxy):
        """Map boxes [..., 4] (numpy or torch) from network pixels back to source pixels."""
        scale, offset = self._vectors(boxes_xyxy)
        return self._ordered((boxes_xyxy - offset) / scale)

    def after_scaling(self, scale_x: float, scale_y: float) -> "Affine":
        """First scale both axes, then this."""
        return replace(self, scale_x=self.scale_x * scale_x, scale_y=self.scale_y * scale_y)

    def _vectors(self, like):
        scale = (self.scale_x, self.scale_y, self.scale_x, self.scale_y)
        offset = (self.offset_x, self.offset_y, self.offset_x, self.offset_y)
        if isinstance(like, torch.Tensor):
            return like.new_tensor(scale), like.new_tensor(offset)
        return np.asarray(scale, like.dtype), np.asarray(offset, like.dtype)

    def _ordered(self, boxes_xyxy):
        """A mirrored box has its right edge first; put the left edge back."""
        return boxes_xyxy[..., [2, 1, 0, 3]] if self.scale_x < 0 else boxes_xyxy


@dataclass(frozen=True)
class Placement:
    """The whole pixels ``source`` of an image, resized into the whole pixels ``target`` of the network's input.

    Both rectangles are integers, so the affine between them is exactly what the resize does, rounding included.

    Args:
        source: part of the image that is shown.
        target: where it goes.
        canvas_width: width of the network's input, for mirroring.
        mirrored: whether the network's input is flipped left to right after pasting.
    """

    source: Rectangle
    target: Rectangle
    canvas_width: int
    mirrored: bool = False

    @property
    def affine(self) -> Affine:
        """Source pixels to network pixels."""
        scale_x = self.target.width / self.source.width
        scale_y = self.target.height / self.source.height
        offset_x = self.target.x - self.source.x * scale_x
        offset_y = self.target.y - self.source.y * scale_y
        if self.mirrored:
            return Affine(-scale_x, scale_y, self.canvas_width - offset_x, offset_y)
        return Affine(scale_x, scale_y, offset_x, offset_y)


def letterbox(source_wh: tuple[int, int], target_wh: tuple[int, int]) -> Placement:
    """The whole image at the largest size that fits, centred, its shape kept to the nearest whole pixel."""
    source_width, source_height = source_wh
    target_width, target_height = target_wh
    scale = min(target_width / source_width, target_height / source_height)
    width = max(1, round(source_width * scale))
    height = max(1, round(source_height * scale))
    target = Rectangle((target_width - width) // 2, (target_height - height) // 2, width, height)
    return Placement(Rectangle(0, 0, source_width, source_height), target, target_width)


def stretch(source_wh: tuple[int, int], target_wh: tuple[int, int]) -> Placement:
    """The whole image over the whole input, each axis scaled on its own."""
    return Placement(Rectangle(0, 0, *source_wh), Rectangle(0, 0, *target_wh), target_wh[0])


def view(
    source_wh: tuple[int, int], window_xyxy: tuple[float, float, float, float], target_wh: tuple[int, int]
) -> Placement:
    """What is seen through a window that may lie partly outside the image, spread over the whole input.

    Args:
        source_wh: image size in pixels.
        window_xyxy: the window in source pixels; it must overlap the image.
        target_wh: input size in pixels.
    """
    x, width, target_x, target_width = _view_axis(source_wh[0], window_xyxy[0], window_xyxy[2], target_wh[0])
    y, height, target_y, target_height = _view_axis(source_wh[1], window_xyxy[1], window_xyxy[3], target_wh[1])
    target = Rectangle(target_x, target_y, target_width, target_height)
    return Placement(Rectangle(x, y, width, height), target, target_wh[0])


def _view_axis(source_size: int, low: float, high: float, target_size: int) -> tuple[int, int, int, int]:
    """One axis of ``view``: start and length in the source, start and length in the target, at least a pixel each.

    Outwards to whole source pixels: what lies in the window is shown.
    """
    scale = target_size / (high - low)
    start = min(max(0, math.floor(low)), source_size - 1)
    stop = min(max(start + 1, math.ceil(high)), source_size)
    target_start = min(max(0, round((start - low) * scale)), target_size - 1)
    target_stop = min(max(target_start + 1, round((stop - low) * scale)), target_size)
    return start, stop - start, target_start, target_stop - target_start
