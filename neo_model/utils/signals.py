"""Signals kept out of what they must not break off."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ignoring(name: str) -> Iterator[None]:
    """Ignore a signal that would end the process; not where somebody handles it, or where the platform lacks it.

    Args:
        name: of the signal, such as ``SIGUSR1``.
    """
    number = getattr(signal, name, None)
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    if number is None or not in_main_thread or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)


def raise_interruption_before(error: BaseException | None) -> None:
    """Raise the Ctrl-C or stop signal that ``error`` hides, if there was one.

    Broken off in the middle, some libraries raise an error of their own: torch about an archive without an end,
    OmegaConf about a node without a value.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            raise error from None
        error = error.__context__


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
