"""How much memory there is, and how the C library treats what was freed."""

import ctypes
import mmap
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

# Of a GPU and of cuBLAS, of torch on a CPU, of the system, by an ``OSError`` or in what torch says of one.
OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "Cannot allocate memory")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# Older versions of glibc refuse a threshold of more than 32 MB.
LARGEST_THRESHOLDS = 2**30, 2**25
NEVER = -1
MARKED_AT_ONCE = 2**28  # bytes of addresses for huge pages
STRICT = "2"  # vm.overcommit_memory for addresses that count as soon as they are taken
ROOT = Path("/")
# Of control groups, by the controllers that /proc/self/cgroup lists, version 2 and 1: where they are mounted, and the
# names of the limit, of what is used, and of the part of it that the kernel can take back.
GROUP_FILES = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def keep_freed_memory() -> int:
    """Have glibc keep large freed blocks: given back to the kernel, each is cleared page by page when it comes again.

    Activations and decoded images are such blocks: keeping them takes half off decoding. Of no effect elsewhere.

    Returns:
        bytes of the largest block that is kept, 0 if none.
    """
    library = _c_library()
    if library is None:
        return 0
    library.mallopt(M_TRIM_THRESHOLD, NEVER)
    return next((threshold for threshold in LARGEST_THRESHOLDS if library.mallopt(M_MMAP_THRESHOLD, threshold)), 0)


@cache  # once a process
def use_huge_pages() -> None:
    """`keep_freed_memory`, and have blocks lie in pages of 2 MB, where Linux gives them to those who ask.

    On a CPU a training step and a prediction go through gigabytes; looking up where each 4 KB of them lie takes a fifth
    of the time. glibc knows a setting for it, but only in the environment that a process starts with. So addresses for
    half of the memory there is are taken, marked, and freed, for malloc to hand out later. They count as memory only
    when they are used; where limits or the kernel count them at once, and on other systems, nothing is done.

    What is to be fast must come later: weights in small pages with gradients in huge ones take twice as long to update.
    """
    size = min(keep_freed_memory(), MARKED_AT_ONCE)
    if not size or _addresses_are_scarce():
        return
    library, blocks = _c_library(), []
    while len(blocks) < (available_memory() or 0) // 2 // size:
        blocks.append(library.malloc(size - mmap.PAGESIZE))  # malloc adds some bytes
        first_page = -(-(blocks[-1] or 0) // mmap.PAGESIZE) * mmap.PAGESIZE
        if not first_page or library.madvise(first_page, size - 2 * mmap.PAGESIZE, mmap.MADV_HUGEPAGE):
            break
    for block in reversed(blocks):
        library.free(block)


def _c_library() -> ctypes.CDLL | None:
    """glibc; None where another one is used."""
    try:
        library = ctypes.CDLL(None)
        library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
        library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        library.free.argtypes, library.free.restype = [ctypes.c_void_p], None
        library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    except (OSError, AttributeError, TypeError):
        return None
    return library


def _addresses_are_scarce() -> bool:
    """Whether addresses without memory behind them count towards a limit."""
    import resource  # not on Windows, where there is no glibc

    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    try:
        rule = (ROOT / "proc/sys/vm/overcommit_memory").read_text().strip()
    except OSError:
        return True
    return rule == STRICT or any(limit != resource.RLIM_INFINITY for limit in limits)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or a GPU says with this error that there is no memory left."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in OUT_OF_MEMORY)


def available_memory() -> int | None:
    """Bytes that this process and its children may still take: of the machine or of a container; None if unknown."""
    try:
        kilobytes = re.search(r"^MemAvailable:\s+(\d+) kB$", (ROOT / "proc/meminfo").read_text(), re.MULTILINE)
        of_machine = int(kilobytes[1]) * 1024
    except (OSError, TypeError):
        return None
    return min([of_machine, *_left_to_groups()])


def _left_to_groups() -> list[int]:
    """Bytes left to each control group that the process is in, the groups around it included, where it has a limit.

    Of the files' pages that count as used, the kernel gives back those that were read once.
    """
    try:
        lines = (ROOT / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for controllers, group in (line.split(":", 2)[1:] for line in lines):
        if controllers not in GROUP_FILES:
            continue
        mount, limit, used, reclaimable = GROUP_FILES[controllers]
        parts = group.strip("/").split("/")
        for depth in range(len(parts) + 1):
            folder = (ROOT / mount).joinpath(*parts[:depth])
            with suppress(OSError, ValueError):  # a container does not see its outer groups; "max" is no limit
                limit_bytes, used_bytes = (int((folder / name).read_text()) for name in (limit, used))
                left.append(limit_bytes - used_bytes + _statistic(folder / "memory.stat", reclaimable))
    return left


def _statistic(path: Path, name: str) -> int:
    """Bytes that a group's statistics say; 0 where they do not, for the limit holds all the same."""
    try:
        return int(dict(line.split() for line in path.read_text().splitlines())[name])
    except (OSError, ValueError, KeyError):
        return 0
