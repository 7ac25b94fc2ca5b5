"""Samples: one image and its objects, as the network takes them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from neo_model.data.coco import CocoInstances
from neo_model.data.image_files import load_image
from neo_model.data.transforms import FITS, Augmentation, Fit, as_targets, place_objects, render

# The third number of a sample's seed; the loader uses others for the shuffle and the sizes.
SAMPLE_STREAM = 3


class SampleRequest(NamedTuple):
    """All that decides a sample, so that it is the same in any process.

    Attributes:
        index: which image of the data set.
        width, height: input size in pixels.
        seed: the run's seed; None for no augmentation.
        epoch: the epoch.
        strong: whether more than the flip is on.
    """

    index: int
    width: int
    height: int
    seed: int | None = None
    epoch: int = 0
    strong: bool = False


class DetectionDataset(Dataset):
    """Images of an annotation file with their objects.

    Args:
        instances: the annotations.
        folder: where the images are.
        size_wh: input size in pixels of ``dataset[i]``.
        fit: how an image of another shape fills the input.
        augment: what a request with a seed may do.
        smallest_side: boxes with a side under this many input pixels are left out.
        indices: the images to use; all by default.
    """

    def __init__(
        self,
        *,
        instances: CocoInstances,
        folder: Path,
        size_wh: tuple[int, int],
        fit: Fit,
        augment: Augmentation,
        smallest_side: float = 0.0,
        indices: np.ndarray | None = None,
    ) -> None:
        self.instances, self.folder = instances, folder
        self.size_wh, self.fit, self.augment = size_wh, fit, augment
        self.smallest_side = smallest_side
        self.indices = np.arange(len(instances)) if indices is None else indices
        self._augmenter = None
        if augment.changes_anything:
            # albumentations takes seconds to import: only where it is used, and before workers are forked.
            from neo_model.data.augmenter import Augmenter

            self._augmenter = Augmenter(augment, fit=fit, smallest_side=smallest_side)

    def __len__(self) -> int:
        return len(self.indices)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.folder / self.instances.file_name(int(self.indices[index]))

    def __getitem__(self, item: int | SampleRequest) -> tuple[torch.Tensor, dict]:
        """The sample of a request; a plain number asks for the image as evaluation sees it.

        Returns:
            image uint8 [3, H, W] RGB, and the dictionary of ``load``.

        Raises:
            UserError: the file is missing, broken, or not of the annotated size.
        """
        request = item if isinstance(item, SampleRequest) else SampleRequest(item, *self.size_wh)
        canvas = np.empty((request.height, request.width, 3), np.uint8)
        target = self.load(request, canvas)
        return torch.from_numpy(canvas).permute(2, 0, 1), target

    def load(self, request: SampleRequest, canvas: np.ndarray) -> dict:
        """Write the image of a request into ``canvas``, uint8 [H, W, 3] RGB of the requested size.

        Returns:
            a dictionary: ``labels`` int64 [n], ``boxes`` float32 [n, 4] cxcywh as fractions of the input,
            ``image_id``, ``source_wh`` (the file's width and height in pixels), ``affine`` (source pixels to input
            pixels, before ``extra`` transforms).

        Raises:
            UserError: the file is missing, broken, or not of the annotated size.
        """
        if not 0 <= request.index < len(self):
            raise IndexError(f"sample {request.index} of {len(self)}")
        index = int(self.indices[request.index])
        instances = self.instances
        source_wh = tuple(instances.sizes_wh[index].tolist())
        image = load_image(self.path(request.index), source_wh)
        boxes_xyxy, labels = instances.objects(index)
        target_wh = request.width, request.height
        if request.seed is None or self._augmenter is None:
            placement = FITS[self.fit](source_wh, target_wh)
            placed_xyxy, kept = place_objects(boxes_xyxy, placement, self.smallest_side)
            render(image, placement, canvas)
        else:
            generator = np.random.default_rng([request.seed, request.epoch, SAMPLE_STREAM, request.index])
            placed_xyxy, kept, placement = self._augmenter(
                image, boxes_xyxy, canvas, generator=generator, strong=request.strong
            )
        return {
            "labels": torch.from_numpy(labels[kept]),
            "boxes": torch.from_numpy(as_targets(placed_xyxy, target_wh)),
            "image_id": int(instances.image_ids[index]),
            "source_wh": source_wh,
            "affine": placement.affine,
        }
