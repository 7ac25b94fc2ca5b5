"""Samples: one image and its objects, as the network takes them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from neo_model.data.coco import CocoInstances
from neo_model.data.image_cache import CacheKind, open_cache
from neo_model.data.image_files import load_image, reduction_for
from neo_model.data.transforms import FITS, Augmentation, Fit, as_targets, place_objects, render, resized

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
        cache: where to keep decoded images for the samples with a seed; they are decoded each time by default.
        largest_wh: the largest input size that will be asked for, where it is not ``size_wh``.
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
        cache: CacheKind | None = None,
        largest_wh: tuple[int, int] | None = None,
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
        self._cache = None
        if cache is not None:
            source_sizes_wh = instances.sizes_wh[self.indices]
            self._cache = open_cache(
                cache,
                files=[self.path(index) for index in range(len(self))],
                source_sizes_wh=source_sizes_wh,
                sizes_wh=_sizes_to_keep(source_sizes_wh, fit, largest_wh or size_wh),
            )

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
        image = self.image(request, source_wh)
        image_wh = image.shape[1::-1]
        scale = image_wh[0] / source_wh[0], image_wh[1] / source_wh[1]
        boxes_xyxy, labels = instances.objects(index)
        boxes_xyxy = boxes_xyxy * np.tile(scale, 2)
        target_wh = request.width, request.height
        if request.seed is None or self._augmenter is None:
            placement = FITS[self.fit](image_wh, target_wh)
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
            "affine": placement.affine.after_scaling(*scale),
        }

    def image(self, request: SampleRequest, source_wh: tuple[int, int]) -> np.ndarray:
        """The image of a request, uint8 [h, w, 3]: smaller than its file where training can do with less of it."""
        path = self.path(request.index)
        if request.seed is None:
            return load_image(path, source_wh)
        if self._cache is None:
            part = self.augment.smallest_part(request.strong)
            whole = FITS[self.fit](source_wh, (request.width, request.height)).target
            needed_wh = whole.width / part, whole.height / part
            return load_image(path, source_wh, reduction=reduction_for(source_wh, needed_wh))
        image = self._cache.get(request.index)
        if image is None:
            size_wh = self._cache.size_wh(request.index)
            image = resized(load_image(path, source_wh, reduction=reduction_for(source_wh, size_wh)), size_wh)
            self._cache.put(request.index, image)
        return image


def _sizes_to_keep(source_sizes_wh: np.ndarray, fit: Fit, largest_wh: tuple[int, int]) -> np.ndarray:
    """Sizes [n, 2] at which whole images fill the largest input, or their own where that is less."""
    sizes_wh, which = np.unique(source_sizes_wh, axis=0, return_inverse=True)
    targets = [FITS[fit](tuple(size_wh), largest_wh).target for size_wh in sizes_wh.tolist()]
    kept_wh = np.minimum(sizes_wh, np.array([(target.width, target.height) for target in targets]).reshape(-1, 2))
    return kept_wh[which.reshape(-1)]
