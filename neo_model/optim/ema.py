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

    def build(self, model: nn.Module) -> "WeightAverage | None":
        """The average of ``model``, buffers included, to be updated after every optimizer step."""
        return None if self.decay == 0 else WeightAverage(model, self)

    def share_kept(self, update: int) -> float:
        """Of the average, in an update counted from 1."""
        return self.decay * (1 - math.exp(-update / self.ramp))


class WeightAverage(AveragedModel):
    """torch's average with an update in which no host waits for a device: its counter stays on the host."""

    def __init__(self, model: nn.Module, settings: Ema) -> None:
        super().__init__(model, use_buffers=True)
        self.eval().requires_grad_(False)
        self.settings = settings
        self.n_averaged.fill_(1)  # of the next update

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, earlier: dict[Tensor, Tensor] | None = None) -> None:
        """Average the weights of ``model`` in.

        Args:
            model: the same layers.
            earlier: values to take instead of some of its tensors' present ones.
        """
        averaged = [*self.module.parameters(), *self.module.buffers()]
        current = [*model.parameters(), *model.buffers()]
        if earlier is not None:
            current = [earlier.get(tensor, tensor) for tensor in current]
        share = 1 - self.settings.share_kept(int(self.n_averaged))
        weights, counters = [], []  # such as batch norm's counters
        for pair in zip(averaged, current, strict=True):
            (weights if pair[0].is_floating_point() else counters).append(pair)
        torch._foreach_lerp_(*map(list, zip(*weights, strict=True)), share)
        if counters:
            torch._foreach_copy_(*map(list, zip(*counters, strict=True)))
        self.n_averaged += 1
