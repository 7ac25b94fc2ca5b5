"""Loaders as others write them, over the same files, boxes, batches and number of worker processes as ours.

``torchvision`` is the chain of the official RT-DETR configuration: decoded by Pillow, transformed step by step, float32
in the end. ``albumentations`` is what one writes for speed without a loader of one's own: cv2, uint8 until the last step.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class BoxedFiles(Dataset):
    """Files with their boxes, put through a function in a worker.

    Args:
        paths: of the images.
        boxes_xyxy: pixels [n, 4] of each.
        transform: a path and its boxes to a float32 tensor [3, H, W] and the boxes that are left.
    """

    def __init__(self, paths: list[Path], boxes_xyxy: list[np.ndarray], transform: Callable) -> None:
        self.paths, self.boxes_xyxy, self.transform = paths, boxes_xyxy, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        return self.transform(self.paths[index], self.boxes_xyxy[index])


class Torchvision:
    """The official chain, with zoom-out and crop for ``rtdetr`` and without for ``light``."""

    def __init__(self, target_wh: tuple[int, int], augment: str) -> None:
        from torchvision.transforms import v2

        width, height = target_wh
        window = [v2.RandomZoomOut(fill=0, p=0.5), v2.RandomApply([v2.RandomIoUCrop()], p=0.8)]
        self.chain = v2.Compose(
            [
                v2.RandomPhotometricDistort(p=0.5),
                *(window if augment == "rtdetr" else []),
                v2.SanitizeBoundingBoxes(),
                v2.RandomHorizontalFlip(),
                v2.Resize([height, width]),
                v2.SanitizeBoundingBoxes(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __call__(self, path: Path, boxes_xyxy: np.ndarray):
        from PIL import Image
        from torchvision.tv_tensors import BoundingBoxes

        image = Image.open(path).convert("RGB")
        boxes = BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=(image.height, image.width))
        image, target = self.chain(image, {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64)})
        return image, target["boxes"]


class Albumentations:
    """cv2 and albumentations with float32 in the end; ``light`` only, for it has no zoom-out of this kind."""

    def __init__(self, target_wh: tuple[int, int]) -> None:
        import albumentations as A

        width, height = target_wh
        self.chain = A.Compose(
            [
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.3, hue=0.02, p=0.5),
                A.Resize(height, width),
            ],
            bbox_params=A.BboxParams(format="pascal_voc", label_fields=["labels"]),
        )

    def __call__(self, path: Path, boxes_xyxy: np.ndarray):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        sample = self.chain(image=image, bboxes=boxes_xyxy, labels=np.zeros(len(boxes_xyxy)))
        pixels = sample["image"].astype(np.float32) / 255
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), torch.from_numpy(sample["bboxes"])


def peer_loader(files: BoxedFiles, *, batch_size: int, workers: int) -> DataLoader:
    """Shuffled batches from workers that live on."""
    return DataLoader(
        files,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=one_thread,
        collate_fn=stacked,
    )


def stacked(samples: list) -> tuple[torch.Tensor, list]:
    """The official collate function: one tensor of images, a list of targets."""
    return torch.stack([image for image, _ in samples]), [boxes for _, boxes in samples]


def one_thread(worker: int) -> None:
    """A worker of its own for each core; OpenCV's threads do not survive the fork."""
    cv2.setNumThreads(0)
