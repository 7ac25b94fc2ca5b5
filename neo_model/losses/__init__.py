"""Training losses."""

from neo_model.losses.criterion import Criterion
from neo_model.losses.matcher import HungarianMatcher

__all__ = ["Criterion", "HungarianMatcher"]
