"""Batches on their way from whoever makes them to the training loop."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from neo_model.data.buffers import KeptImages
from neo_model.data.dataset import DetectionDataset, SampleRequest
from neo_model.data.image_files import DamagedImage
from neo_model.data.replacement import load_or_replace

Batch = tuple[torch.Tensor, list[dict]]


@dataclass
class PackedBatch:
    """A batch in three tensors.

    From a worker process all but `KeptImages` comes through the pipe. torch would send a tensor as the number of a file
    that the receiver then asks the sender for, and a sender that has been stopped meanwhile would never answer.
    """

    images: torch.Tensor | KeptImages
    labels: torch.Tensor
    boxes: torch.Tensor
    counts: list[int]
    others: list[dict]
    damaged: list[DamagedImage]

    def pin_memory(self) -> "PackedBatch":
        """torch's hook for page-locked memory; without it the targets' tuples would come out as lists."""
        tensors = {key: getattr(self, key).pin_memory() for key in ("images", "labels", "boxes")}
        return replace(self, **tensors)

    def __getstate__(self) -> dict:
        return {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in vars(self).items()}

    def __setstate__(self, state: dict) -> None:
        for key, value in state.items():
            setattr(self, key, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)

    def unpack(self) -> Batch:
        """Images and a target for each, whose tensors are views."""
        labels, boxes = self.labels.split(self.counts), self.boxes.split(self.counts)
        parts = zip(labels, boxes, self.others, strict=True)
        return self.images, [{"labels": label, "boxes": box, **other} for label, box, other in parts]


def make_batch(dataset: DetectionDataset, requests: list[SampleRequest], images_NHWC: torch.Tensor) -> PackedBatch:
    """The samples of a batch, each image written where it will stay."""
    canvases = images_NHWC.numpy()
    pairs = zip(requests, canvases, strict=True)
    targets, damaged = zip(*(load_or_replace(dataset, request, canvas) for request, canvas in pairs), strict=True)
    tensors = ("labels", "boxes")
    return PackedBatch(
        images=images_NHWC.permute(0, 3, 1, 2),
        labels=torch.cat([target["labels"] for target in targets]),
        boxes=torch.cat([target["boxes"] for target in targets]),
        counts=[len(target["labels"]) for target in targets],
        others=[{key: value for key, value in target.items() if key not in tensors} for target in targets],
        damaged=sum(damaged, []),
    )


def batch_shape(requests: list[SampleRequest]) -> tuple[int, int, int, int]:
    """Images, height, width and channels of a batch in memory."""
    return len(requests), requests[0].height, requests[0].width, 3
