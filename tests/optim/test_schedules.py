"""Learning rates at the steps that matter, against the formulas."""

import math

import pytest
import torch

from neo_model.optim import Constant, Cosine, FlatCosine, Multistep

EPOCH, TOTAL = 10, 100


def factors(schedule) -> list[float]:
    return [schedule.factor(step, EPOCH, TOTAL) for step in range(TOTAL + 1)]


def test_constant_warms_up_over_steps():
    values = factors(Constant(warmup_steps=4))
    assert values[:5] == [0.25, 0.5, 0.75, 1, 1] and set(values[5:]) == {1}


@pytest.mark.parametrize("schedule", [Constant, Cosine, FlatCosine])
def test_without_warm_up_the_first_step_has_the_full_rate(schedule):
    assert schedule().factor(0, EPOCH, TOTAL) == 1


def test_a_warm_up_in_epochs_counts_their_steps_and_may_be_a_part_of_one():
    assert factors(Constant(warmup_epochs=2)) == factors(Constant(warmup_steps=20))
    assert factors(Constant(warmup_epochs=0.5)) == factors(Constant(warmup_steps=5))
    assert factors(Constant(warmup_epochs=0.5, warmup_steps=3)) == factors(Constant(warmup_steps=8))


def test_multistep_falls_at_the_first_step_of_each_milestone():
    values = factors(Multistep(milestones=[4, 7], gamma=0.1, warmup_epochs=1))
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert values[10:40] == [1] * 30
    assert values[40:70] == pytest.approx([0.1] * 30)
    assert values[70:] == pytest.approx([0.01] * 31)


def test_the_published_recipe_of_72_epochs():
    schedule = Multistep(milestones=[40, 55], gamma=0.1, warmup_epochs=5)
    steps_per_epoch = 14_786
    at = {epoch: schedule.factor(epoch * steps_per_epoch, steps_per_epoch, 72 * steps_per_epoch) for epoch in range(72)}
    assert at[0] == pytest.approx(1 / (5 * steps_per_epoch))
    assert [at[epoch] for epoch in (5, 39, 40, 54, 55, 71)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_falls_from_the_end_of_the_warm_up_to_its_final_ratio():
    values = factors(Cosine(final_ratio=0.2, warmup_steps=20))
    assert values[19] == values[20] == 1
    assert values[60] == pytest.approx(0.6)  # half way between 1 and 0.2
    assert values[40] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert values[100] == pytest.approx(0.2)
    assert values[20:] == sorted(values[20:], reverse=True)


def test_flat_cosine_holds_the_rate_for_its_share_of_all_steps():
    values = factors(FlatCosine(flat_fraction=0.5, final_ratio=0.0, warmup_steps=10))
    assert values[9:51] == [1] * 42
    assert values[75] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0, abs=1e-12)


def test_a_warm_up_longer_than_the_flat_part_delays_the_descent():
    values = factors(FlatCosine(flat_fraction=0.1, warmup_steps=40))
    assert values[39] == values[40] == 1 and values[70] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", [Cosine(final_ratio=0.1), FlatCosine(flat_fraction=1.0, final_ratio=0.1)])
def test_steps_beyond_the_plan_stay_at_the_end(schedule):
    assert schedule.factor(5000, EPOCH, TOTAL) == pytest.approx(0.1)


@pytest.mark.parametrize("total", [1, 3])
def test_a_run_shorter_than_its_warm_up_stays_within_0_and_1(total):
    for schedule in (FlatCosine(warmup_steps=50), Cosine(warmup_steps=50), Cosine()):
        assert all(0 <= schedule.factor(step, 1, total) <= 1 for step in range(total + 1))


def test_every_group_keeps_its_own_rate_under_the_scheduler():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 1.0)]
    optimizer = torch.optim.SGD(groups)
    scheduler = Constant(warmup_steps=4).build(optimizer, steps_per_epoch=EPOCH, total_steps=TOTAL)
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = [[0.1 * factor, factor] for factor in (0.25, 0.5, 0.75, 1, 1)]
    torch.testing.assert_close(torch.tensor(rates), torch.tensor(expected))
