"""The average of the weights: its ramp, its buffers, and how it is switched off."""

import math

import pytest
import torch
from torch import nn

from neo_model.optim import Ema


def constant_model(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean, model[1].running_var):
            tensor.fill_(value)
    return model


def set_all(model: nn.Module, value: float) -> None:
    model.load_state_dict({k: torch.full_like(v, int(value)) for k, v in model.state_dict().items()})


def test_after_update_n_it_keeps_decay_times_the_ramp():
    model = constant_model(0.0)
    average = Ema(decay=0.9, ramp=5.0).build(model)
    expected = 0.0
    for update, value in enumerate((1.0, 4.0, -2.0, 7.0), start=1):
        set_all(model, value)
        average.update_parameters(model)
        keep = 0.9 * (1 - math.exp(-update / 5))
        expected = keep * expected + (1 - keep) * value
        assert average.module[0].weight[0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_buffers_are_averaged_and_counters_copied():
    model = constant_model(0.0)
    average = Ema(decay=0.5, ramp=1e-6).build(model)
    for _ in range(3):
        set_all(model, 8.0)
        average.update_parameters(model)
    for averaged in (average.module[0].bias, average.module[1].running_mean, average.module[1].running_var):
        assert averaged.tolist() == pytest.approx([7.0] * 3)
    assert average.module[1].num_batches_tracked.item() == 8


def test_the_average_is_apart_from_the_model_and_takes_no_gradient():
    model = constant_model(1.0)
    average = Ema().build(model)
    assert not average.module.training and not any(p.requires_grad for p in average.parameters())
    set_all(model, 5.0)
    assert average.module[0].weight[0, 0].item() == 1.0
    model.train()
    average.update_parameters(model)
    assert model[0].weight.requires_grad and model.training and not average.module.training


def test_a_later_change_of_the_decay_takes_effect():
    model, ema = constant_model(0.0), Ema(decay=0.9, ramp=1e-6)
    average = ema.build(model)
    average.update_parameters(model)
    set_all(model, 10.0)
    ema.decay = 0.2
    average.update_parameters(model)
    assert average.module[0].weight[0, 0].item() == pytest.approx(8.0)


def test_decay_0_turns_it_off():
    assert Ema(decay=0.0).build(constant_model(0.0)) is None
