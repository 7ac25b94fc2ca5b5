"""Training and evaluation loops, checkpoints and everything with side effects.

Each name is imported on first use, so that the loop itself needs neither OpenCV nor a data set.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "EvaluationPlan": "neo_model.engine.evaluation_loop",
    "Hardware": "neo_model.engine.hardware",
    "ImageDetections": "neo_model.engine.evaluation_loop",
    "Logger": "neo_model.engine.loggers",
    "RunSettings": "neo_model.engine.runner",
    "Runner": "neo_model.engine.runner",
    "TensorBoardLogger": "neo_model.engine.loggers",
    "WandbLogger": "neo_model.engine.wandb_logger",
    "detect": "neo_model.engine.evaluation_loop",
    "evaluate": "neo_model.engine.evaluation_loop",
    "inference_form": "neo_model.engine.evaluation_loop",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
