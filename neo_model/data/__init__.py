"""Images and annotations in, batches of uint8 images and normalised boxes out."""

import os
from typing import TYPE_CHECKING

from neo_model.data.coco import Classes
from neo_model.data.detection import DetectionData
from neo_model.data.loader import TrainLoader
from neo_model.data.resolution import Resolution
from neo_model.data.transforms import Augmentation

if TYPE_CHECKING:
    from neo_model.data.shapes import ShapesData

__all__ = ["Augmentation", "Classes", "DetectionData", "Resolution", "ShapesData", "TrainLoader"]


# albumentations asks the network for its newest version when imported, and waits for the answer.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def __getattr__(name: str):
    """Import the generated data set only when it is asked for: few runs need its generator."""
    if name == "ShapesData":
        from neo_model.data.shapes import ShapesData

        return ShapesData
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
