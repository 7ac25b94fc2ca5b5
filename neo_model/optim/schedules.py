"""Learning-rate schedules: pure functions of the optimizer step, multiplied onto every group's rate.

Each class has ``factor(step, steps_per_epoch, total_steps)`` with ``step`` counted from 0.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from neo_model.utils import Fraction, NonNegativeFloat, NonNegativeInt


class Schedule:
    """Linear warm-up, then whatever `after_warmup` says.

    Args:
        warmup_epochs, warmup_steps: length of the warm-up; they add up, normally one of them is 0.
    """

    def __init__(self, *, warmup_epochs: NonNegativeFloat = 0.0, warmup_steps: NonNegativeInt = 0) -> None:
        self.warmup_epochs, self.warmup_steps = warmup_epochs, warmup_steps

    def factor(self, step: int, steps_per_epoch: int, total_steps: int) -> float:
        """Learning rate at ``step`` as a share of the configured one."""
        warmup = self.warmup_steps + round(self.warmup_epochs * steps_per_epoch)
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return rise * self.after_warmup(step, warmup, steps_per_epoch, total_steps)

    def after_warmup(self, step: int, warmup: int, steps_per_epoch: int, total_steps: int) -> float:
        """The schedule without its warm-up of ``warmup`` steps."""
        raise NotImplementedError

    def build(self, optimizer: Optimizer, *, steps_per_epoch: int, total_steps: int) -> LambdaLR:
        """A scheduler to be stepped once after every optimizer step."""
        return LambdaLR(optimizer, lambda step: self.factor(step, steps_per_epoch, total_steps))


class Constant(Schedule):
    """The full rate after the warm-up."""

    def after_warmup(self, step: int, warmup: int, steps_per_epoch: int, total_steps: int) -> float:
        return 1.0


class Multistep(Schedule):
    """The rate falls by ``gamma`` at the start of each epoch in ``milestones``."""

    def __init__(
        self,
        *,
        milestones: list[NonNegativeInt],
        gamma: Fraction = 0.1,
        warmup_epochs: NonNegativeFloat = 0.0,
        warmup_steps: NonNegativeInt = 0,
    ) -> None:
        super().__init__(warmup_epochs=warmup_epochs, warmup_steps=warmup_steps)
        self.milestones, self.gamma = milestones, gamma

    def after_warmup(self, step: int, warmup: int, steps_per_epoch: int, total_steps: int) -> float:
        return self.gamma ** sum(step >= milestone * steps_per_epoch for milestone in self.milestones)


class FlatCosine(Schedule):
    """The full rate for a share of the steps, then half a cosine down to a share of it.

    Args:
        flat_fraction: share of all steps, warm-up included, before the descent.
        final_ratio: share of the rate at the end.
        warmup_epochs, warmup_steps: see `Schedule`.
    """

    def __init__(
        self,
        *,
        flat_fraction: Fraction = 0.5,
        final_ratio: Fraction = 0.0,
        warmup_epochs: NonNegativeFloat = 0.0,
        warmup_steps: NonNegativeInt = 0,
    ) -> None:
        super().__init__(warmup_epochs=warmup_epochs, warmup_steps=warmup_steps)
        self.flat_fraction, self.final_ratio = flat_fraction, final_ratio

    def after_warmup(self, step: int, warmup: int, steps_per_epoch: int, total_steps: int) -> float:
        start = max(warmup, self.flat_fraction * total_steps)
        progress = min(1.0, max(0.0, (step - start) / max(1.0, total_steps - start)))
        return self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


class Cosine(FlatCosine):
    """Half a cosine from the end of the warm-up down to ``final_ratio`` of the rate."""

    def __init__(
        self,
        *,
        final_ratio: Fraction = 0.0,
        warmup_epochs: NonNegativeFloat = 0.0,
        warmup_steps: NonNegativeInt = 0,
    ) -> None:
        super().__init__(
            flat_fraction=0.0, final_ratio=final_ratio, warmup_epochs=warmup_epochs, warmup_steps=warmup_steps
        )
