"""Batches: which samples make up which batch, and the worker processes that make them.

The order depends on (seed, epoch), a batch's size on (seed, epoch, batch), a sample on (seed, epoch, index). All of it
travels to the workers in the requests, so their number changes nothing, and living workers need not be told of a new
epoch.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from neo_model.data.dataset import DetectionDataset, SampleRequest
from neo_model.data.resolution import Resolution
from neo_model.utils import UserError

Batch = tuple[torch.Tensor, list[dict]]

# The third number of the seeds; the dataset uses another one for the samples.
ORDER_STREAM, SIZE_STREAM = 1, 2


@dataclass
class PackedBatch:
    """A batch in three tensors, for each tensor that leaves a worker costs a file descriptor and a mapping."""

    images: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor
    counts: list[int]
    others: list[dict]

    def pin_memory(self) -> "PackedBatch":
        """torch's hook for page-locked memory; without it the targets' tuples would come out as lists."""
        tensors = {key: getattr(self, key).pin_memory() for key in ("images", "labels", "boxes")}
        return replace(self, **tensors)

    def unpack(self) -> Batch:
        """Images and a target for each, whose tensors are views."""
        labels, boxes = self.labels.split(self.counts), self.boxes.split(self.counts)
        parts = zip(labels, boxes, self.others, strict=True)
        return self.images, [{"labels": label, "boxes": box, **other} for label, box, other in parts]


class BatchAssembler(Dataset):
    """Turns a list of requests into a ``PackedBatch`` inside a worker.

    A ``UserError`` is returned, not raised: torch would turn it into a traceback as text.
    """

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, requests: list[SampleRequest]) -> PackedBatch | UserError:
        try:
            samples = [self.dataset[request] for request in requests]
        except UserError as error:
            return error
        targets = [target for _, target in samples]
        tensors = ("labels", "boxes")
        return PackedBatch(
            images=default_collate([image for image, _ in samples]),
            labels=torch.cat([target["labels"] for target in targets]),
            boxes=torch.cat([target["boxes"] for target in targets]),
            counts=[len(target["labels"]) for target in targets],
            others=[{key: value for key, value in target.items() if key not in tensors} for target in targets],
        )


def _already_packed(batch):
    """Stands in for torch's collate: the assembler has done it. A named function, so that it can be pickled."""
    return batch


def _start_worker(worker: int) -> None:
    """Each worker is one thread; Ctrl-C and SIGTERM are the main process's to handle, which then ends the workers.

    A terminal, `timeout` and schedulers signal a whole process group, so each worker has one of its own. SIGTERM is not
    ignored: it is what the main process ends workers with that it could not ask to end.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgrp()


def _engine(dataset: DetectionDataset, batches, *, workers: int, prefetch: int, pin_memory: bool, persistent: bool):
    # OpenCV's own threads do not survive the fork into workers: none may run before it.
    if workers:
        cv2.setNumThreads(0)
    return DataLoader(
        BatchAssembler(dataset),
        batch_sampler=batches,
        collate_fn=_already_packed,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=persistent and workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        # Of no effect on the samples; without it each epoch would draw from the global generator.
        generator=torch.Generator(),
    )


def _unpacked(packed_batches) -> Iterator[Batch]:
    try:
        for packed in packed_batches:
            if isinstance(packed, UserError):
                raise packed
            yield packed.unpack()
    finally:
        # An error's traceback keeps this frame; with the iterator in it the workers would outlive `close`, and what
        # the garbage collector then takes apart in any order leaves torch waiting for them, 5 s a worker.
        del packed_batches


class TrainingOrder(Sampler):
    """The requests of each batch of an epoch; ``epoch`` and ``start_batch`` are set before iterating.

    The last images that do not fill a batch are left out; a set smaller than a batch makes one batch, with repeats.
    """

    def __init__(self, *, dataset: DetectionDataset, batch_size: int, resolution: Resolution, seed: int) -> None:
        self.num_images, self.augment = len(dataset), dataset.augment
        self.batch_size, self.resolution, self.seed = batch_size, resolution, seed
        self.epoch = 0
        self.start_batch = 0

    def __len__(self) -> int:
        return max(1, self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        epoch, seed = self.epoch, self.seed
        order = np.random.default_rng([seed, epoch, ORDER_STREAM]).permutation(self.num_images)
        order = np.resize(order, len(self) * self.batch_size).reshape(len(self), self.batch_size)
        sizes = self.resolution.sizes_at(epoch)
        strong = self.augment.is_strong_at(epoch)
        for batch in range(self.start_batch, len(self)):
            width, height = sizes[np.random.default_rng([seed, epoch, SIZE_STREAM, batch]).integers(len(sizes))]
            yield [SampleRequest(int(index), width, height, seed, epoch, strong) for index in order[batch]]


class TrainLoader:
    """Training batches, epoch by epoch, from workers that live until ``close``.

    Args:
        dataset: the training set.
        resolution: the sizes to draw from, one a batch.
        batch_size: images in a batch.
        workers: processes; 0 loads in this one.
        prefetch: batches that each worker prepares ahead.
        pin_memory: put batches into page-locked memory, for fast copies to a GPU.
        seed: the run's seed.
    """

    def __init__(
        self,
        *,
        dataset: DetectionDataset,
        resolution: Resolution,
        batch_size: int,
        workers: int,
        prefetch: int,
        pin_memory: bool,
        seed: int,
    ) -> None:
        self._order = TrainingOrder(dataset=dataset, batch_size=batch_size, resolution=resolution, seed=seed)
        self._dataset = dataset
        self._options = {"workers": workers, "prefetch": prefetch, "pin_memory": pin_memory}
        self._engine: DataLoader | None = None
        self._running: Iterator[Batch] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``start_batch`` on; it ends an epoch that was not read to its end.

        Yields:
            images uint8 [B, 3, H, W] and B targets (see ``DetectionDataset``).

        Raises:
            UserError: while iterating, when an image cannot be used.
        """
        self._stop_running()
        if self._engine is None:
            self._engine = _engine(self._dataset, self._order, persistent=True, **self._options)
        self._order.epoch, self._order.start_batch = epoch, start_batch
        self._running = _unpacked(iter(self._engine))
        return self._running

    def close(self) -> None:
        """End the workers. A later ``epoch`` starts new ones."""
        self._stop_running()
        self._engine = None

    def _stop_running(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


class EvaluationOrder(Sampler):
    """All images in order, untouched; the last batch may be short."""

    def __init__(self, *, dataset: DetectionDataset, batch_size: int, limit: int | None) -> None:
        self.num_images, self.size_wh = len(dataset), dataset.size_wh
        self.batch_size, self.limit = batch_size, limit

    def __len__(self) -> int:
        batches = -(-self.num_images // self.batch_size)
        return batches if self.limit is None else min(self.limit, batches)

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            indices = range(first, min(first + self.batch_size, self.num_images))
            yield [SampleRequest(index, *self.size_wh) for index in indices]


class EvaluationLoader:
    """Every image once, in order, as often as it is iterated; its workers end with each iteration.

    Args:
        dataset: the images.
        batch_size, workers, prefetch, pin_memory: as for ``TrainLoader``.
        limit: batches to stop after.
    """

    def __init__(
        self,
        *,
        dataset: DetectionDataset,
        batch_size: int,
        workers: int,
        prefetch: int,
        pin_memory: bool,
        limit: int | None = None,
    ) -> None:
        self.dataset = dataset
        self._order = EvaluationOrder(dataset=dataset, batch_size=batch_size, limit=limit)
        self._options = {"workers": workers, "prefetch": prefetch, "pin_memory": pin_memory}

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        return _unpacked(iter(_engine(self.dataset, self._order, persistent=False, **self._options)))
