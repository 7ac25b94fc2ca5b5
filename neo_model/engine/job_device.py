"""Jobs that run beside each other on one machine: each process gets a GPU of its own while there are enough.

Whoever holds which GPU is written in locks that the kernel takes away when a process ends in whatever way.
"""

import errno
import fcntl
import itertools
import os
import socket
from pathlib import Path

# The CUDA_VISIBLE_DEVICES that the sweep was started with; launchers set their own in their jobs.
SWEEP_DEVICES = "NEO_MODEL_SWEEP_DEVICES"
ALL = "all"
LOCKS = ".devices"

_held: list = []  # the open file of this process's lock


def remember_devices() -> None:
    """Note for the jobs to come which GPUs this process may use."""
    os.environ[SWEEP_DEVICES] = os.environ.get("CUDA_VISIBLE_DEVICES", ALL)


def take_device(sweep_dir: Path) -> None:
    """Let this process see one GPU: the one that the fewest other jobs of the sweep use.

    It must come before the process's first use of CUDA, and holds until the process ends. Without GPUs, or with the
    devices not noted, nothing changes.

    Args:
        sweep_dir: the sweep's folder, on a disk that the jobs share.
    """
    if _held or SWEEP_DEVICES not in os.environ:
        return
    devices = _devices(os.environ[SWEEP_DEVICES])
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = _lock_one(sweep_dir / LOCKS, devices)


def _devices(visible: str) -> list[str]:
    if visible != ALL:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
        return [device.strip() for device in visible.split(",") if device.strip()]
    import torch

    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return [str(number) for number in range(torch.cuda.device_count())]


def _lock_one(folder: Path, devices: list[str]) -> str:
    """The first device with a free lock: one each at first, then a second job each, and so on."""
    folder.mkdir(exist_ok=True)
    host = socket.gethostname()
    for turn in itertools.count():
        for device in devices:
            file = (folder / f"{host}-{device.replace('/', '_')}-{turn}").open("a")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    continue
            else:
                _held.append(file)
            # A disk without locks: by chance, so that not all take the first.
            return device if _held else devices[os.getpid() % len(devices)]
    raise AssertionError("there is always another turn")
