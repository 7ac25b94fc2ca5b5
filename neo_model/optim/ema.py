"""Exponential moving average of the weights, which evaluation and export use."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from neo_model.utils import Fraction, PositiveFloat


class Ema:
    """Settings of the average: after update n it keeps decay * (1 - exp(-n / ramp)) of itself.

    Args:
        decay: final share kept; 0 turns the average off.
        ramp: updates over which the share rises, so that the first, bad weights are soon forgotten.
    """

    def __init__(self, *, decay: Fraction = 0.9999, ramp: PositiveFloat = 2000.0) -> None:
        self.decay, self.ramp = decay, ramp

    def build(self, model: nn.Module) -> AveragedModel | None:
        """The average of ``model``, buffers included, to be updated after every optimizer step."""
        if self.decay == 0:
            return None
        average = AveragedModel(model, multi_avg_fn=self._update, use_buffers=True)
        average.eval().requires_grad_(False)
        average.n_averaged.fill_(1)  # at 0 torch would copy the weights instead of averaging them in
        return average

    @torch.no_grad()
    def _update(self, averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # counters, such as batch norm's
            torch._foreach_copy_(averaged, current)
            return
        keep = self.decay * (1 - math.exp(-int(num_averaged) / self.ramp))
        torch._foreach_lerp_(averaged, current, 1 - keep)
