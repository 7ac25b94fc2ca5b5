"""Batches on their way from whoever makes them to the training loop."""

from dataclasses import dataclass, replace

import torch

from neo_model.data.buffers import KeptImages
from neo_model.data.dataset import DetectionDataset, SampleRequest
from neo_model.data.image_files import DamagedImage
from neo_model.data.replacement import load_or_replace

Batch = tuple[torch.Tensor, list[dict]]


@dataclass
class PackedBatch:
    """A batch in three tensors, for each tensor that leaves a worker costs a file descriptor and a mapping."""

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
