"""How many processor cores there are to use."""

import os


def num_cores() -> int:
    """Cores that this process may use: of a machine that has more, a container or ``taskset`` may leave it a few."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
