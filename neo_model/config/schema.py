"""The top level of the configurations: which keys there are and what each may hold."""

from typing import Annotated

from neo_model.utils import Bounds, Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt

TRAINING_SETTINGS = {
    "epochs": PositiveInt,
    "seed": Annotated[int, Bounds(low=0, high=2**63 - 1)],  # torch takes no more digits
    "resume": str | None,
    "weights": str | None,
    "rehead": bool,
    "overfit": NonNegativeInt,
    "limit_batches": PositiveInt | None,
    "log_every": PositiveInt,
    "save_minutes": NonNegativeFloat,
    "keep": PositiveInt,
    "debug": bool,
}

# What checkpoints from before these settings existed stand for.
LATER_SETTINGS = {"save_minutes": 10.0, "keep": 2}

# Which package's classes may stand at each node; nothing else is imported, let alone called.
TRAINING_NODES = {
    "model": "neo_model.models",
    "criterion": "neo_model.losses",
    "optim": "neo_model.optim",
    "schedule": "neo_model.optim",
    "ema": "neo_model.optim",
    "evaluation": "neo_model.engine",
    "data": "neo_model.data",
    "hardware": "neo_model.engine",
}
LOGGER_PACKAGE = "neo_model.engine"

EVALUATION_SETTINGS = {
    "ckpt": str,
    "conf_threshold": Fraction | None,
    "nms_threshold": Fraction | None,
    "report": bool,
    "compare": str | None,
    "debug": bool,
}

# Arguments that the job knows and the configuration must not give.
SUPPLIED = {"num_classes": "the number of classes comes from the annotations"}

# Changing these on resume is the same training; changing anything else is another one.
# The data may have moved: their paths may change, to where the same images and annotations lie.
CHANGEABLE_ON_RESUME = (
    *("epochs", "hardware", "logger", "debug", "log_every", "save_minutes", "keep"),
    *("evaluation.every", "evaluation.at_start", "evaluation.patience", "evaluation.pictures", "evaluation.backend"),
    *("data.root", "data.train_images", "data.train_annotations", "data.val_images", "data.val_annotations"),
    "data.max_bad_fraction",
)
# These decide which images the batches of an epoch hold, so not while one is half done.
FIXED_WITHIN_AN_EPOCH = ("hardware.batch_size", "hardware.accumulate")
# These decide what AP means: another AP is no reason to write over the best weights so far.
DECIDES_AP = ("limit_batches", "evaluation.conf_threshold", "evaluation.nms_threshold", "evaluation.max_detections")

# A data set may have this key for its other paths to start with, also when its class does not take it.
PATH_PREFIX = "root"
