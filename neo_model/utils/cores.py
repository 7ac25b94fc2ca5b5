"""How many processor cores there are to use."""

import os
from functools import cache


@cache
def num_cores() -> int:
    """Cores that this process may use: of a machine that has more, a container or ``taskset`` may leave it a few.

    They are counted once, when `neo_model.utils` is imported: with OMP_PROC_BIND set, ``import torch`` binds the main
    thread to one of them.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
