"""One process at a time trains in a run's folder, and one command in a sweep's."""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neo_model.utils import UserError
from neo_model.utils.files import telling_of_refusal

log = logging.getLogger(__name__)

LOCK_FILE = "training.lock"
TAKEN = {errno.EACCES, errno.EAGAIN}


@contextmanager
def training_alone(run_dir: Path, *, key: str = "hydra.run.dir") -> Iterator[int]:
    """Hold the folder's lock, which the kernel takes away when this process ends in whatever way.

    Gives the descriptor of the lock's file.

    The lock is the process's own (``lockf``): loader processes that outlive a killed training for some seconds do not
    hold it, as they would hold a lock of the open file (``flock``).

    Args:
        run_dir: the folder of the run or the sweep, which exists.
        key: what chooses another one.

    Raises:
        UserError: another process holds it, or the disk refuses.
    """
    path = run_dir / LOCK_FILE
    with telling_of_refusal(path):
        file = path.open("a+b", buffering=0)
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in TAKEN:
                file.seek(0)
                holder = file.read().decode(errors="replace").strip() or "another process"
                remedy = f"wait until it has ended or stop it, or choose another folder by {key}=DIR"
                raise UserError(str(run_dir), f"{holder} is training in it", remedy) from error
            log.warning("%s: this disk has no locks (%s); see to it that only one process trains here", path, error)
        else:
            with telling_of_refusal(path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield file.fileno()
