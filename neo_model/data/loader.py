"""Loaders: which samples make up which batch of an epoch or of an evaluation.

The order depends on (seed, epoch), a batch's size on (seed, epoch, batch), a sample on (seed, epoch, index). All of it
travels to the workers in the requests, so their number changes nothing, and living workers need not be told of a new
epoch.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from neo_model.data.dataset import DetectionDataset, SampleRequest
from neo_model.data.replacement import DamageCount
from neo_model.data.resolution import Resolution
from neo_model.data.workers import Batch, Batches, LoaderKind

# The third number of the seeds; the dataset uses another one for the samples.
ORDER_STREAM, SIZE_STREAM = 1, 2


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
        kind: whether the workers are processes or threads.
        workers: their number; 0 loads when a batch is asked for.
        prefetch: batches that each worker prepares ahead.
        pin_memory: put batches into page-locked memory, for fast copies to a GPU.
        seed: the run's seed.
        max_bad_fraction: the part of the images that may be damaged; see ``DamageCount``.
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
        kind: LoaderKind = "process",
        max_bad_fraction: float = 0.0,
    ) -> None:
        self._order = TrainingOrder(dataset=dataset, batch_size=batch_size, resolution=resolution, seed=seed)
        self._dataset = dataset
        self._damage = DamageCount(len(dataset), max_bad_fraction, dataset.folder)
        self._options = {"kind": kind, "workers": workers, "prefetch": prefetch, "pin_memory": pin_memory}
        self._options |= {"largest_wh": resolution.largest_wh, "damage": self._damage}
        self._batches: Batches | None = None
        self._running: Iterator[Batch] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    @property
    def num_bad_images(self) -> int:
        """Damaged images met so far, in whose place others were loaded."""
        return len(self._damage)

    def bad_images(self) -> list[str]:
        """Their files, relative to the image folder: for a checkpoint."""
        return self._damage.file_names()

    def restore_bad_images(self, file_names: list[str]) -> None:
        """Go on counting after those of a checkpoint; raises ``ValueError`` where they are not of this data set."""
        self._damage.restore(file_names, map(self._dataset.path, range(len(self._dataset))))

    def has_one_size(self, epoch: int) -> bool:
        """Whether all batches of this epoch have the same width and height."""
        return len(set(self._order.resolution.sizes_at(epoch))) == 1

    def start_workers(self) -> None:
        """Have the worker processes live from now on, before an epoch asks for them.

        A process shares the memory that is there when it starts, and whoever writes to shared memory pays for it page
        by page: on a CPU the first update of weights that are made later takes a tenth to a quarter of the time.
        """
        next(self.epoch(0, start_batch=len(self)), None)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``start_batch`` on; it ends an epoch that was not read to its end.

        Yields:
            images uint8 [B, 3, H, W] and B targets (see ``DetectionDataset``).

        Raises:
            UserError: while iterating, when an image cannot be used, or too many are damaged.
        """
        self._stop_running()
        if self._batches is None:
            self._batches = Batches(dataset=self._dataset, order=self._order, persistent=True, **self._options)
        self._order.epoch, self._order.start_batch = epoch, start_batch
        self._running = iter(self._batches)
        return self._running

    def close(self) -> None:
        """End the workers. A later ``epoch`` starts new ones."""
        self._stop_running()
        self._batches = None

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
        batch_size, workers, prefetch, pin_memory, kind: as for ``TrainLoader``.
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
        kind: LoaderKind = "process",
    ) -> None:
        self.dataset = dataset
        self._order = EvaluationOrder(dataset=dataset, batch_size=batch_size, limit=limit)
        self._options = {"kind": kind, "workers": workers, "prefetch": prefetch, "pin_memory": pin_memory}
        self._options["largest_wh"] = dataset.size_wh

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        return iter(Batches(dataset=self.dataset, order=self._order, persistent=False, **self._options))
