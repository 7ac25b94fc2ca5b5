"""What every other package may use: errors, number ranges, seeding. It imports nothing of ours."""

from neo_model.utils.constraints import (
    Bounds,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from neo_model.utils.cores import num_cores
from neo_model.utils.errors import UserError

__all__ = [
    "Bounds",
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "UserError",
]

num_cores()  # before torch is imported
