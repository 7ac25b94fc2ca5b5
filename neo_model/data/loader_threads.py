"""Batches made by threads of the training process, which OpenCV lets run at the same time."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from queue import SimpleQueue

import torch
from torch.utils.data import Sampler

from neo_model.data.buffers import KeptBuffers
from neo_model.data.dataset import DetectionDataset, SampleRequest
from neo_model.data.findings import first_of
from neo_model.data.packed_batch import PackedBatch, batch_shape, make_batch
from neo_model.utils import UserError

# Seconds that threads have, all together, to finish what they are at; torch gives each worker process as many.
LONGEST_CLOSE = 5.0


@dataclass(frozen=True, kw_only=True)
class BatchThreads:
    """The batches of an order, made ahead by threads; without any, by whoever asks.

    Args:
        dataset: makes the samples.
        order: the requests of each batch.
        buffers: memory for the images.
        threads: their number.
        ahead: batches to make ahead, by all of them.
        pin_memory: put batches into page-locked memory.
        longest_wait: seconds without a batch after which a thread is taken to hang.
    """

    dataset: DetectionDataset
    order: Sampler
    buffers: KeptBuffers
    threads: int
    ahead: int
    pin_memory: bool
    longest_wait: float

    def __iter__(self) -> Iterator[PackedBatch]:
        if not self.threads:
            for requests in self.order:
                yield self._make(requests, self._memory(requests))
            return
        pool, pending = _Pool(self.threads), deque()
        try:
            for requests in self.order:
                pending.append((requests, pool.submit(self._make, requests, self._memory(requests))))
                if len(pending) > self.ahead:
                    yield self._result(*pending.popleft())
            while pending:
                yield self._result(*pending.popleft())
        finally:
            for _, future in pending:
                future.cancel()
            pool.close()

    def _result(self, requests: list[SampleRequest], future: Future) -> PackedBatch:
        if not wait([future], self.longest_wait).done:
            files = first_of([self.dataset.path(request.index) for request in requests])
            cause = f"a loader thread is lost while it was to load {files} (no batch for {self.longest_wait:g} seconds)"
            raise UserError("hardware.workers", cause, "if a disk hangs, mend it; then resume the run")
        return future.result()

    def _make(self, requests: list[SampleRequest], images_NHWC: torch.Tensor) -> PackedBatch:
        packed = make_batch(self.dataset, requests, images_NHWC)
        return packed.pin_memory() if self.pin_memory else packed

    def _memory(self, requests: list[SampleRequest]) -> torch.Tensor:
        if self.pin_memory:
            # torch keeps freed page-locked memory itself, until copies from it have ended.
            return torch.empty(batch_shape(requests), dtype=torch.uint8, pin_memory=True)
        return self.buffers.take(batch_shape(requests))


class _Pool:
    """Threads that, unlike those of a ``ThreadPoolExecutor``, do not keep the process from ending when one hangs."""

    def __init__(self, threads: int) -> None:
        self._tasks: SimpleQueue = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"loader_{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function, *arguments) -> Future:
        """Have a thread call a function."""
        future = Future()
        self._tasks.put((future, function, arguments))
        return future

    def close(self) -> None:
        """End the threads, each of which finishes what it is at; one that hangs is left behind."""
        deadline = time.monotonic() + LONGEST_CLOSE
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, function, arguments = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:  # whoever waits for the result gets it
                    future.set_exception(error)
            del task, future, function, arguments  # or their memory would be in use until the next task
