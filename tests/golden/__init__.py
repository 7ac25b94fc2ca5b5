"""Outputs of the published models for weights and inputs that are regenerated from names and shapes.

A case holds figures only: `value` gives every weight of the state dict by its key, `image` and `targets` the inputs.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def value(key: str, shape: list[int]) -> Tensor:
    """The weight that belongs to the state-dict key: variances in 0.5..1.5, norm scales around 0.7, small biases,
    and weights scaled by 1.4 / sqrt(fan-in)."""
    generator = _generator(key)
    if key.endswith("running_var"):
        return torch.from_numpy(generator.uniform(0.5, 1.5, shape).astype(np.float32))
    normal = generator.standard_normal(shape, dtype=np.float32)
    if key.endswith(("running_mean", "bias")):
        return torch.from_numpy(normal * np.float32(0.1))
    if len(shape) == 1:
        return torch.from_numpy(np.float32(0.7) + normal * np.float32(0.07))
    return torch.from_numpy(normal * np.float32(1.4 / np.sqrt(np.prod(shape[1:]))))


def image(name: str, shape: list[int]) -> Tensor:
    """Smooth blobs in 0..1, bilinear between the points of a random 9 x 16 grid whose corners are the image's."""
    batch, channels, height, width = shape
    coarse = _generator(name).uniform(0.0, 1.0, (batch, channels, 9, 16)).astype(np.float32)
    row, column = np.linspace(0, 8, height, dtype=np.float32), np.linspace(0, 15, width, dtype=np.float32)
    top, left = np.clip(row.astype(int), 0, 7), np.clip(column.astype(int), 0, 14)
    down, right = (row - top)[:, None], (column - left)[None]  # float64, as every product below
    upper, lower = coarse[:, :, top], coarse[:, :, top + 1]
    upper = upper[..., left] * (1 - right) + upper[..., left + 1] * right
    lower = lower[..., left] * (1 - right) + lower[..., left + 1] * right
    return torch.from_numpy((upper * (1 - down) + lower * down).astype(np.float32))


def targets(name: str, counts: list[int], num_classes: int = 80) -> list[dict[str, Tensor]]:
    """``labels`` and ``boxes`` (cxcywh in 0..1, sides 0.05..0.4, inside the image) of each image."""
    generator, result = _generator(name), []
    for count in counts:
        size = generator.uniform(0.05, 0.4, (count, 2))
        centre = generator.uniform(0.0, 1.0, (count, 2)) * (1 - size) + size / 2
        labels = torch.from_numpy(generator.integers(0, num_classes, count).astype(np.int64))
        boxes = torch.from_numpy(np.concatenate((centre, size), axis=1).astype(np.float32)).reshape(count, 4)
        result.append({"labels": labels, "boxes": boxes})
    return result


def load(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The description (json; empty where there is none) and the figures (npz) of a case."""
    description = FOLDER / f"{name}.json"
    figures = dict(np.load(FOLDER / f"{name}.npz"))
    return (json.loads(description.read_text()) if description.exists() else {}), figures


def state_dict(description: dict) -> dict[str, Tensor]:
    """The regenerated weights of a model case."""
    return {key: value(key, shape) for key, shape in description["state_dict"].items()}
