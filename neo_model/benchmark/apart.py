"""A candidate in a process of its own, with the memory allocator as it comes: ours changes it for the whole process."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch


@contextmanager
def apart(make: Callable[[], Callable[[], object]], device: torch.device) -> Iterator[Callable[[], None]]:
    """A call that has another process call what ``make`` made there, and waits for it.

    Args:
        make: a module's function, or a partial one; called in the other process.
        device: which the other process waits for, too.

    Raises:
        RuntimeError: while calling, when the other process has ended, as its traceback says.
    """
    here, there = multiprocessing.Pipe()
    arguments = (make, device, there, torch.get_num_threads())
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
    make: Callable[[], Callable[[], object]], device: torch.device, connection: Connection, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    call = make()
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    while connection.recv():
        call()
        wait()
        connection.send(True)
