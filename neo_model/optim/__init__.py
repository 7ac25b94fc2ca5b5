"""Optimizer, schedules and weight averaging."""

from neo_model.optim.adamw import AdamW
from neo_model.optim.ema import Ema
from neo_model.optim.groups import parameter_groups
from neo_model.optim.schedules import Constant, Cosine, FlatCosine, Multistep, Schedule

__all__ = ["AdamW", "Constant", "Cosine", "Ema", "FlatCosine", "Multistep", "Schedule", "parameter_groups"]
