"""Garbage collection, left out where it could only find that nothing is garbage."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """No garbage collection: many new objects would set it off again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """While modules are imported, no garbage collection; what PyTorch's import made stays out of all later ones.

    A process that has PyTorch already is not ours to say what stays in.
    """
    torch_is_new = "torch" not in sys.modules
    with without_collecting():
        yield
        if torch_is_new and "torch" in sys.modules:
            gc.freeze()
