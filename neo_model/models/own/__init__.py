"""The place for backbones and detectors of one's own: a configuration may name every public class of the files here.

The manual's section "A backbone or a decoder of your own" has an example.
"""

import importlib
import pkgutil

from torch import nn


def _classes() -> dict[str, type[nn.Module]]:
    found = {}
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        for name, value in vars(importlib.import_module(file.name)).items():
            is_module = isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == file.name
            if is_module and not name.startswith("_"):
                found[name] = value
    return found


CLASSES = _classes()  # public modules that the files of this folder define, by name
