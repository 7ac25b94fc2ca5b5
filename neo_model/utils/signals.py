"""Signals whose handlers raise, kept out of what must not be broken off."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def later_about_children() -> Iterator[None]:
    """Put off the handler of SIGCHLD until the block has ended.

    torch's handler raises as soon as a loader process is dead, wherever the main thread is: in the middle of a file
    its error would be lost in torch's own about an archive without an end.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    missed = []
    signal.signal(signal.SIGCHLD, lambda *caught: missed.append(caught))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
    if missed:
        handler(*missed[-1])
