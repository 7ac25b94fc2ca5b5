"""RT-DETR trained, evaluated and shipped at the camera's own shape.

The names below are the public interface; each is imported on first use, so that ``import neo_model`` is instant.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Detections": "neo_model.deploy.predict",
    "Detector": "neo_model.deploy.predict",
    "RTDETR": "neo_model.models",
    "UserError": "neo_model.utils",
    "build_criterion": "neo_model.config.build",
    "build_model": "neo_model.config.build",
    "load_detector": "neo_model.deploy.predict",
    "load_weights": "neo_model.models",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'neo_model' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
