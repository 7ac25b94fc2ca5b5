"""Colour augmentation as albumentations transforms that cost one pass over the pixels.

Brightness, contrast, saturation, hue and a channel swap are all affine in (R, G, B), so their product is one 3 x 4
matrix: 1.3 ms for a 1080p image, where albumentations' ColorJitter takes 24 ms. What differs from the chain of
single steps is only that values are clipped to 0..255 once, at the end.
"""

import albumentations as A
import cv2
import numpy as np

from neo_model.data.transforms import Augmentation

LUMA = np.array([0.299, 0.587, 0.114])
YIQ_FROM_RGB = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
RGB_FROM_YIQ = np.linalg.inv(YIQ_FROM_RGB)


class ColorMatrix(A.ImageOnlyTransform):
    """Random brightness, contrast, saturation, hue and channel order of a uint8 RGB image.

    Args:
        brightness, contrast, saturation: largest change of each factor from 1.
        hue: largest turn of the hue, as a fraction of the colour circle.
        swap_channels: whether the channels may be put in another order.
        part: probability of each part on its own.
        p: probability of the whole.
    """

    def __init__(
        self,
        *,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        swap_channels: bool = False,
        part: float = 1.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.swap_channels, self.part = swap_channels, part

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        """Draw the matrix [3, 4] for this image; None if no part was drawn."""
        steps = [step for step in self._steps() if self.py_random.random() < self.part]
        if not steps:
            return {"matrix": None}
        # SSD's order, in which contrast comes either before or after saturation and hue, and the swap last.
        if self.py_random.random() < 0.5:
            steps.sort(key=lambda step: (step == self._channel_swap, step == self._contrast))
        mean = np.array(cv2.mean(data["image"])[:3])
        matrix = np.eye(3, 4)
        for step in steps:
            linear, offset = step(matrix[:, :3] @ mean + matrix[:, 3])
            matrix = linear @ matrix
            matrix[:, 3] += offset
        return {"matrix": matrix}

    def apply(self, img: np.ndarray, matrix: np.ndarray | None, **params) -> np.ndarray:
        """The image uint8 [H, W, 3] with its colours mapped and clipped."""
        return img if matrix is None else cv2.transform(img, matrix)

    def _steps(self) -> list:
        steps = [self._brightness, self._contrast, self._saturation, self._hue]
        return [*steps, self._channel_swap] if self.swap_channels else steps

    # Each step takes the mean colour so far and gives a matrix [3, 3] and an offset.

    def _brightness(self, mean: np.ndarray):
        return self._factor(self.brightness) * np.eye(3), 0.0

    def _contrast(self, mean: np.ndarray):
        factor = self._factor(self.contrast)
        return factor * np.eye(3), (1 - factor) * (LUMA @ mean)

    def _saturation(self, mean: np.ndarray):
        factor = self._factor(self.saturation)
        return factor * np.eye(3) + (1 - factor) * LUMA, 0.0

    def _hue(self, mean: np.ndarray):
        angle = 2 * np.pi * self.py_random.uniform(-self.hue, self.hue)
        turn = np.eye(3)
        turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return RGB_FROM_YIQ @ turn @ YIQ_FROM_RGB, 0.0

    def _channel_swap(self, mean: np.ndarray):
        return np.eye(3)[self.py_random.sample(range(3), 3)], 0.0

    def _factor(self, change: float) -> float:
        return self.py_random.uniform(1 - change, 1 + change)


def color_transforms(augment: Augmentation) -> list[ColorMatrix]:
    """The colour part of an ``Augmentation``."""
    transforms = []
    if augment.photometric:
        strong = {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5, "hue": 0.05}
        transforms.append(ColorMatrix(**strong, swap_channels=True, part=augment.photometric))
    if augment.color:
        mild = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.3, "hue": 0.02}
        transforms.append(ColorMatrix(**mild, p=augment.color))
    return transforms
