"""A candidate in a process of its own, with the memory allocator as it comes: ours changes it for the whole process."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch

from neo_model.engine.hardware import Hardware


@contextmanager
def apart(make: Callable[[], Callable[[], object]], hardware: Hardware) -> Iterator[Callable[[], None]]:
    """A call that has another process call what ``make`` made there, and waits for it.

    Args:
        make: a module's function, or a partial one; called in the other process.
        hardware: whose GPU is set there as here, and waited for; a CPU's memory stays as it comes.

    Raises:
        RuntimeError: while calling, when the other process has ended, as its traceback says.
    """
    here, there = multiprocessing.Pipe()
    arguments = (make, hardware, there, torch.get_num_threads())
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
    process.start()
    there.close()

    def call() -> None:
        try:
            here.send(True)
            here.recv()
        except (EOFError, OSError) as error:
            process.join()
            raise RuntimeError(f"a process with a candidate has ended ({process.exitcode})") from error

    try:
        yield call
    finally:
        process.kill()
        process.join()


def _serve(
    make: Callable[[], Callable[[], object]], hardware: Hardware, connection: Connection, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    is_gpu = hardware.device.type == "cuda"
    if is_gpu:
        hardware.set_backends()
    call = make()
    while connection.recv():
        call()
        if is_gpu:
            torch.cuda.synchronize()
        connection.send(True)
