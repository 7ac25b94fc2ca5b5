"""Who makes the batches: worker processes, threads, or whoever asks for the next one."""

import fcntl
import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.queues import Queue
from typing import Literal, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from neo_model.data.buffers import KeptBuffers
from neo_model.data.dataset import DetectionDataset, SampleRequest
from neo_model.data.findings import first_of
from neo_model.data.loader_threads import BatchThreads
from neo_model.data.packed_batch import Batch, PackedBatch, batch_shape, make_batch
from neo_model.data.replacement import DamageCount
from neo_model.utils import UserError
from neo_model.utils.memory import keep_freed_memory

LoaderKind = Literal["process", "thread"]

# Batches in the hands of whoever asked: the last one, still in use while the next is received.
BATCHES_IN_USE = 2
# Bytes of batches, without their images, that workers have sent and nobody has read; the most that Linux gives to all.
PIPE_BYTES = 2**20
# Seconds without a batch after which workers are taken to hang, on a disk that does not answer for example.
LONGEST_WAIT = 600.0


class Batches:
    """Batches in the order of their requests, made anew with each iteration.

    Args:
        dataset: makes the samples.
        order: the requests of each batch.
        kind: what the workers are.
        workers: how many make batches ahead of time; with 0 a batch is made when it is asked for.
        prefetch: batches that each worker prepares.
        pin_memory: put batches into page-locked memory, for fast copies to a GPU.
        persistent: whether processes live on from one iteration to the next.
        largest_wh: width and height in pixels of the largest images.
        damage: counts the images that had to be replaced; needed where the requests have a seed.
    """

    def __init__(
        self,
        *,
        dataset: DetectionDataset,
        order: Sampler,
        kind: LoaderKind,
        workers: int,
        prefetch: int,
        pin_memory: bool,
        persistent: bool,
        largest_wh: tuple[int, int],
        damage: DamageCount | None = None,
    ) -> None:
        self._damage = damage
        ahead = workers * prefetch
        num_bytes = order.batch_size * largest_wh[0] * largest_wh[1] * 3
        buffers = KeptBuffers(count=ahead + BATCHES_IN_USE, num_bytes=num_bytes)
        if workers:
            # OpenCV's own threads do not survive the fork into processes; beside threads of ours they are too many.
            cv2.setNumThreads(0)
        keep_freed_memory()
        if workers and kind == "process":
            options = {"prefetch_factor": prefetch, "pin_memory": pin_memory, "persistent_workers": persistent}
            self._packed = _Processes(dataset, order, buffers, workers, **options)
        else:
            self._packed = BatchThreads(
                dataset=dataset,
                order=order,
                buffers=buffers,
                threads=workers,
                ahead=ahead,
                pin_memory=pin_memory,
                longest_wait=LONGEST_WAIT,
            )

    def __iter__(self) -> Iterator[Batch]:
        return _unpacked(iter(self._packed), self._damage)


@contextmanager
def telling_of_lost_workers(due: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn what torch says of a worker process that is dead or hangs into a ``UserError``.

    Of a dead one torch tells by a signal handler, and so wherever the main thread is.

    Args:
        due: what the workers were to do, for the error.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).partition("\n")[0]  # some say nothing
        if not said.startswith(("DataLoader worker", "DataLoader timed out")):
            raise
        cause = f"a loader process is lost{due()} ({said.rstrip('.')})"
        remedy = "if memory ran out, lower it or hardware.prefetch; if a disk hangs, mend it; then resume the run"
        raise UserError("hardware.workers", cause, remedy) from error


def _unpacked(packed_batches, damage: DamageCount | None) -> Iterator[Batch]:
    try:
        for packed in packed_batches:
            if isinstance(packed, UserError):
                raise packed
            if packed.damaged:
                damage.add(packed.damaged)
            batch = packed.unpack()
            del packed  # or its memory would be in use for as long as the next batch takes
            yield batch
    finally:
        # An error's traceback keeps this frame; with the iterator in it the workers would outlive `close`, and what
        # the garbage collector then takes apart in any order leaves torch waiting for them, 5 s a worker.
        del packed_batches


class _Leased(NamedTuple):
    """What a worker process is asked for, and the block to put it in.

    None when all were in use, because somebody keeps batches: such a batch the main process makes itself, for the
    images do not fit into the pipe.
    """

    requests: list[SampleRequest]
    block: int | None


@dataclass(frozen=True)
class _Leasing(Sampler):
    """An order whose batches each have a block of the main process's buffers."""

    order: Sampler
    buffers: KeptBuffers
    due: deque[list[SampleRequest]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[_Leased]:
        self.due.clear()
        for requests in self.order:
            self.due.append(requests)
            yield _Leased(requests, self.buffers.lease())


@dataclass(frozen=True)
class _InWorker(Dataset):
    """Makes batches in a worker process.

    A ``UserError`` is returned, not raised: torch would turn it into a traceback as text.
    """

    dataset: DetectionDataset
    buffers: KeptBuffers

    def __getitems__(self, leased: _Leased) -> PackedBatch | UserError | None:
        if leased.block is None:
            return None
        shape = batch_shape(leased.requests)
        images = torch.from_numpy(self.buffers.array(leased.block, shape))
        try:
            packed = make_batch(self.dataset, leased.requests, images)
        except UserError as error:
            return error
        return replace(packed, images=self.buffers.sent(leased.block, shape))


class _Processes:
    """Batches from torch's worker processes; ``options`` are the ``DataLoader``'s."""

    def __init__(
        self, dataset: DetectionDataset, order: Sampler, buffers: KeptBuffers, workers: int, **options
    ) -> None:
        self._dataset, self._order = dataset, _Leasing(order, buffers)
        self._loader = DataLoader(
            _InWorker(dataset, buffers),
            batch_sampler=self._order,
            collate_fn=_already_packed,
            num_workers=workers,
            timeout=LONGEST_WAIT,
            multiprocessing_context=_WorkerContext(),
            worker_init_fn=_start_worker,
            # Of no effect on the samples; without it each epoch would draw from the global generator.
            generator=torch.Generator(),
            **options,
        )

    def __iter__(self) -> Iterator[PackedBatch]:
        iterator = iter(self._loader)
        try:
            with telling_of_lost_workers(self._due):
                for packed in iterator:
                    requests = self._order.due.popleft()
                    yield self._made_here(requests) if packed is None else packed
                    del packed
        except Exception:  # whatever it is, it goes on below; an iteration that is given up is none
            # The error's traceback keeps the iterator, which would end its workers when nobody refers to it.
            iterator._shutdown_workers()
            self._loader._iterator = None
            raise

    def _made_here(self, requests: list[SampleRequest]) -> PackedBatch:
        return make_batch(self._dataset, requests, torch.empty(batch_shape(requests), dtype=torch.uint8))

    def _due(self) -> str:
        names = [self._dataset.path(request.index) for requests in list(self._order.due)[:1] for request in requests]
        return f" while it was to load {first_of(names)}"


def _already_packed(batch):
    """Stands in for torch's collate: the dataset has done it."""
    return batch


LEFT_TO_MAIN = (signal.SIGINT, signal.SIGTERM)
PARENT_CHECK_SECONDS = 5.0


class _WorkerProcess(ForkProcess):
    """A process that leaves Ctrl-C and SIGTERM to the main process, which still needs its batches to end a step.

    A service manager signals every process of a run. The signals are blocked until `_start_worker` ignores them, for
    torch has a handler of SIGTERM of its own in between. So what means to end a worker, torch and multiprocessing's
    exit, kills it, also one that has been stopped.

    Who ends a loader waits for each worker to end by itself, and nothing is lost with one that is killed: torch would
    wait 5 s, in which a run that was told to stop has to be gone.
    """

    _patience = 0.25

    def join(self, timeout: float | None = None) -> None:
        super().join(None if timeout is None else min(timeout, self._patience))

    def terminate(self) -> None:
        self._patience = math.inf
        super().terminate()

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_MAIN)
        super().run()

    @staticmethod
    def _Popen(process: ForkProcess):  # noqa: N802
        started = ForkProcess._Popen(process)
        started.terminate = started.kill
        return started


class _WorkerContext(ForkContext):
    """Forks, so that the workers inherit the buffers."""

    Process = _WorkerProcess

    def Queue(self, maxsize: int = 0) -> Queue:  # noqa: N802
        """With room for all messages: whoever reads a part of one waits for the rest, also from a stopped worker."""
        queue = super().Queue(maxsize)
        with suppress(OSError, AttributeError):  # the user has no memory left for pipes; not on Linux
            fcntl.fcntl(queue._writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return queue


def _start_worker(worker: int) -> None:
    """A worker makes batches in one thread, in a process group of its own: `timeout` and schedulers signal groups."""
    cv2.setNumThreads(0)
    for number in LEFT_TO_MAIN:  # a mask alone does not hold: other threads, and multiprocessing itself, may lift it
        signal.signal(number, signal.SIG_IGN)
    os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """torch's worker looks whether its parent changes, which it does not if it was killed before the first look."""
    parent = multiprocessing.parent_process().pid
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)
