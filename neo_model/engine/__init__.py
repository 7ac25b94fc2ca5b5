"""Training and evaluation loops, checkpoints and everything with side effects."""

from neo_model.engine.evaluation_loop import EvaluationPlan, ImageDetections, detect, evaluate
from neo_model.engine.hardware import Hardware
from neo_model.engine.loggers import Logger, TensorBoardLogger, WandbLogger
from neo_model.engine.runner import Runner, RunSettings

__all__ = [
    "EvaluationPlan",
    "Hardware",
    "ImageDetections",
    "Logger",
    "RunSettings",
    "Runner",
    "TensorBoardLogger",
    "WandbLogger",
    "detect",
    "evaluate",
]
