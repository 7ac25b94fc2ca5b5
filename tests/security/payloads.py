"""What hostile pickles call when they are loaded the usual way, each to create one file."""

import builtins
import functools
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import hydra.utils
import numpy as np
import torch
import torch.utils.collect_env

from tests.security.conftest import running, touching


class Call:
    """Unpickled the usual way, it is the result of a call."""

    def __init__(self, function: Callable, *arguments: object, state: object = None) -> None:
        self.whole = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.whole


def _python(path: Path) -> str:
    return f"__import__('pathlib').Path({str(path)!r}).touch()"


def _array_file(path: Path) -> Path:
    """A .npy file whose one entry is a pickle that creates ``path``."""
    file = path.with_name("evil.npy")
    np.save(file, np.array([Call(os.system, touching(path))], dtype=object), allow_pickle=True)
    return file


def _weight_file(path: Path) -> Path:
    file = path.with_name("inner.pth")
    torch.save({"model": Call(os.system, touching(path))}, file)
    return file


def _nested_in_tensors(path: Path) -> dict:
    return {"model": {"weight": torch.zeros(2), "bias": [torch.ones(1), (1, {"x": Call(os.mkdir, str(path))})]}}


# Each makes an object whose pickle creates the path.
PAYLOADS: dict[str, Callable[[Path], object]] = {
    "os.system": lambda path: Call(os.system, touching(path)),
    "os.mkdir": lambda path: Call(os.mkdir, str(path)),
    "subprocess": lambda path: Call(subprocess.check_output, ["touch", str(path)]),
    "eval": lambda path: Call(builtins.eval, _python(path)),
    "exec": lambda path: Call(builtins.exec, _python(path)),
    "collect_env": lambda path: Call(torch.utils.collect_env.run, touching(path)),
    "copyfile": lambda path: Call(shutil.copyfile, os.devnull, str(path)),
    "getattr": lambda path: Call(Path.touch, path),
    "hydra": lambda path: Call(hydra.utils.instantiate, running(touching(path))),
    "numpy loader": lambda path: Call(np.load, str(_array_file(path)), None, True),
    "numpy array": lambda path: np.array([Call(os.mkdir, str(path))], dtype=object),
    "torch loader": lambda path: Call(functools.partial(torch.load, weights_only=False), str(_weight_file(path))),
    "torch storage": lambda path: Call(torch.storage._load_from_bytes, _weight_file(path).read_bytes()),
    "pickle in pickle": lambda path: Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(path)))),
    "state": lambda path: Call(list, state=Call(os.mkdir, str(path))),
    "key": lambda path: Call(dict, [(1, Call(os.mkdir, str(path)))]),
    "among tensors": _nested_in_tensors,
}


def _short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def _quoted(text: str) -> bytes:
    return b"S'" + text.encode() + b"'\n"


RUN = ("torch", "utils.collect_env.run")
# Pickles written by hand: each takes the command, with opcodes that Python's own pickler never writes.
OPCODES: dict[str, Callable[[str], bytes]] = {
    "INST": lambda command: b"(" + _quoted(command) + b"ios\nsystem\n.",
    "OBJ": lambda command: b"(cos\nsystem\n" + _quoted(command) + b"o.",
    "REDUCE": lambda command: b"cos\nsystem\n(" + _quoted(command) + b"tR.",
    "dotted STACK_GLOBAL": lambda command: b"\x80\x04%b%b\x93%b\x85R." % (*map(_short, RUN), _short(command)),
    "dotted GLOBAL": lambda command: b"\x80\x04c%b\n%b\n%b\x85R." % (*(part.encode() for part in RUN), _short(command)),
}
