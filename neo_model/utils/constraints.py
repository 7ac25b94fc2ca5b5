"""Number ranges as type hints, so that a signature is also the rule a config value is checked against."""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Bounds:
    """A closed or half-open interval of finite numbers.

    Args:
        low: smallest value.
        high: largest value.
        low_open: whether ``low`` itself is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False

    def contains(self, value: float) -> bool:
        """Whether ``value`` is finite and inside."""
        above = value > self.low if self.low_open else value >= self.low
        return -math.inf < value < math.inf and above and value <= self.high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.low_open else f"at least {self.low:g}"
        high = f"{self.high:g}" if isinstance(self.high, float) else self.high  # a whole number in full
        return f"between {self.low:g} and {high}"


LARGEST_COUNT = 2**31 - 1  # more of anything than there is, and small enough to multiply and to hand to libraries
PositiveInt = Annotated[int, Bounds(low=1, high=LARGEST_COUNT)]
NonNegativeInt = Annotated[int, Bounds(low=0, high=LARGEST_COUNT)]
PositiveFloat = Annotated[float, Bounds(low=0.0, low_open=True)]
NonNegativeFloat = Annotated[float, Bounds(low=0.0)]
Fraction = Annotated[float, Bounds(low=0.0, high=1.0)]
