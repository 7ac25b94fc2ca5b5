"""One epoch: what a step changes, what a bad step leaves alone, and that accumulation is a larger batch."""

import copy
import math
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from neo_model.engine.progress import Progress
from neo_model.engine.training_loop import MAX_SKIPPED_IN_A_ROW, train_one_epoch
from neo_model.utils import UserError
from tests.engine.conftest import still

COUNTS = [3, 0, 5, 1, 2, 2, 0, 4]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1.0, fused=True)


def train(learner, batches, hardware, progress=None) -> list:
    """The reports of all steps."""
    reports = []
    train_one_epoch(learner, batches, progress or Progress(), hardware, reports.append)
    return reports


def weights(learner) -> dict[str, torch.Tensor]:
    return copy.deepcopy(learner.model.state_dict())


def spoil(batches: list, *positions: int) -> list:
    """The batches, with images that are not numbers at some positions."""
    return [(images * math.nan, t) if i in positions else (images, t) for i, (images, t) in enumerate(batches)]


def states(learner, progress) -> tuple:
    """Everything that a step may change."""
    optimizer = copy.deepcopy(learner.optimizer.state_dict()["state"])
    average = copy.deepcopy(learner.ema.state_dict())
    schedule = {k: v for k, v in learner.scheduler.state_dict().items() if k != "lr_lambdas"}
    return weights(learner), average, optimizer, schedule, learner.scaler.state_dict(), progress.state_dict()


@pytest.mark.parametrize(
    ("counts", "model"),
    [
        (COUNTS, {"num_denoising": 0}),
        # With as many boxes in every image the padding is the same, too.
        ([2] * 8, {"num_denoising": 10, "label_noise_ratio": 0.0, "box_noise_scale": 0.0}),
    ],
    ids=["matching", "denoising"],
)
@pytest.mark.parametrize("clip_norm", [0.1, None])
def test_two_batches_of_four_are_one_of_eight(make_hardware, make_learner, make_batches, counts, model, clip_norm):
    states, reports = [], []
    for batch_size, accumulate in ((8, 1), (4, 2), (3, 3)):
        hardware = make_hardware(batch_size=batch_size, accumulate=accumulate)
        learner = make_learner(hardware, optimizer=sgd, clip_norm=clip_norm, warmup_steps=0, **model)
        still(learner.model)
        (report,) = train(learner, make_batches(counts, batch_size), hardware)
        reports.append(report)
        states.append(weights(learner))
    start = make_learner(make_hardware(), **model).model.state_dict()
    for state, report in zip(states[1:], reports[1:], strict=True):
        assert len(report.image_ids) == 8
        assert report.gradient_norm == pytest.approx(reports[0].gradient_norm, rel=1e-5)
        for name, loss in reports[0].losses.items():
            assert report.losses[name] == pytest.approx(loss, rel=1e-5)
        for name, value in states[0].items():
            moved = (value.float() - start[name]).norm()
            assert (state[name].float() - value).norm() <= 1e-6 * value.float().norm() + 1e-4 * moved, name
    assert any(not states[0][name].equal(start[name]) for name in start)


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left(make_hardware, make_learner, make_batches):
    hardware, progress = make_hardware(accumulate=3), Progress()
    reports = train(make_learner(hardware), make_batches(COUNTS, 2), hardware, progress)
    assert [report.image_ids for report in reports] == [[*range(100, 106)], [106, 107]]
    assert (progress.step, progress.batch) == (2, 4)


def test_training_on_a_batch_lowers_its_loss(make_hardware, make_learner, make_batches):
    hardware = make_hardware()
    learner = make_learner(hardware, num_denoising=0)
    reports = train(learner, make_batches([2, 3], 2) * 40, hardware)
    totals = [sum(report.losses.values()) for report in reports]
    assert sum(totals[-5:]) / 5 < 0.8 * totals[0]
    assert learner.model.training


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_without_finite_loss_changes_nothing(make_hardware, make_learner, make_batches, precision):
    hardware, progress = make_hardware(precision=precision), Progress()
    learner = make_learner(hardware)
    good = make_batches([2, 1, 3, 0], 2)
    train(learner, good, hardware, progress)
    before, average = weights(learner), copy.deepcopy(learner.ema.state_dict())
    schedule, optimizer = learner.scheduler.state_dict(), copy.deepcopy(learner.optimizer.state_dict())
    scale, step = learner.scaler.get_scale(), progress.step
    (report,) = train(learner, spoil(good[:1], 0), hardware, progress)
    assert not math.isfinite(report.gradient_norm)
    assert (progress.step, progress.skipped_in_a_row) == (step, 1)
    torch.testing.assert_close(weights(learner), before, atol=0, rtol=0)
    torch.testing.assert_close(learner.ema.state_dict(), average, atol=0, rtol=0)
    torch.testing.assert_close(learner.optimizer.state_dict()["state"], optimizer["state"], atol=0, rtol=0)
    assert learner.scheduler.state_dict() == schedule
    assert learner.scaler.get_scale() == (scale / 2 if precision == "fp16" else scale)
    # The next good step goes on as if nothing had been.
    train(learner, good[1:], hardware, progress)
    assert (progress.step, progress.skipped_in_a_row) == (step + 1, 0)
    assert all(value.isfinite().all() for value in weights(learner).values())


def test_a_bad_batch_spoils_its_whole_step_only(make_hardware, make_learner, make_batches):
    hardware = make_hardware(accumulate=2)
    learner, twin = make_learner(hardware, num_denoising=0), make_learner(hardware, num_denoising=0)
    batches = make_batches(COUNTS, 2)
    reports = train(learner, spoil(batches, 1), hardware)
    assert [math.isfinite(report.gradient_norm) for report in reports] == [False, True]
    train(twin, batches[2:], hardware)
    torch.testing.assert_close(weights(learner), weights(twin), atol=0, rtol=0)


def test_the_very_first_step_may_be_bad_under_a_scaler(make_hardware, make_learner, make_batches):
    hardware = make_hardware(precision="fp16")
    learner = make_learner(hardware)
    reports = train(learner, spoil(make_batches([1, 1], 1), 0), hardware)
    assert [math.isfinite(report.gradient_norm) for report in reports] == [False, True]


@pytest.mark.slow
def test_a_scale_that_overflows_the_gradients_comes_down_until_steps_are_taken(
    make_hardware, make_learner, make_batches
):
    hardware, progress = make_hardware(precision="fp16"), Progress()
    learner = make_learner(hardware, scale=2.0**18)
    reports = train(learner, make_batches([2, 3], 2) * 10, hardware, progress)
    taken = [math.isfinite(report.gradient_norm) for report in reports]
    assert not taken[0] and taken[-1]
    assert progress.step == sum(taken) and learner.scheduler.last_epoch == progress.step
    assert int(learner.ema.n_averaged) - 1 == progress.step
    assert learner.scaler.get_scale() < 2.0**18
    assert all(value.isfinite().all() for value in weights(learner).values())


def test_too_many_bad_steps_in_a_row_end_the_run_with_the_images_named(make_hardware, make_learner, make_batches):
    hardware, progress = make_hardware(), Progress()
    batches = [(images * math.nan, targets) for images, targets in make_batches([1, 1], 2)] * 40
    with pytest.raises(UserError, match=r"\[100, 101\].*lower optim.lr"):
        train(make_learner(hardware), batches, hardware, progress)
    assert (progress.step, progress.skipped_in_a_row) == (0, MAX_SKIPPED_IN_A_ROW)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_gradient_is_clipped_to_its_length_over_all_parameters(
    make_hardware, make_learner, make_batches, precision
):
    hardware, moved, norms = make_hardware(precision=precision), [], []
    for clip_norm in (0.1, None):
        learner = make_learner(hardware, optimizer=sgd, clip_norm=clip_norm, warmup_steps=0, num_denoising=0)
        before = [p.detach().clone() for p in learner.model.parameters()]
        (report,) = train(learner, make_batches([2, 3], 2), hardware)
        pairs = zip(learner.model.parameters(), before, strict=True)
        moved.append(torch.stack([(p.detach() - b).norm() for p, b in pairs]).norm().item())
        norms.append(report.gradient_norm)
    # At a rate of 1 plain descent moves by the gradient itself; the report has its length before clipping.
    assert norms[0] == pytest.approx(norms[1], rel=1e-3) and norms[0] > 1
    assert moved == pytest.approx([0.1, norms[1]], rel=1e-3)


def test_the_reported_rate_is_that_of_the_step(make_hardware, make_learner, make_batches):
    hardware = make_hardware()
    reports = train(make_learner(hardware, warmup_steps=4), make_batches([1] * 5, 1), hardware)
    rates = [report.learning_rate for report in reports]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])


def test_the_average_follows_every_step(make_hardware, make_learner, make_batches):
    hardware = make_hardware()
    learner = make_learner(hardware)
    expected = learner.model.decoder.enc_score_head.bias.detach().clone()
    for update, batch in enumerate(make_batches([1, 2, 3], 1), start=1):
        train(learner, [batch], hardware)
        keep = 0.9 * (1 - math.exp(-update / 2.0))
        expected = keep * expected + (1 - keep) * learner.model.decoder.enc_score_head.bias.detach()
        torch.testing.assert_close(learner.ema.module.decoder.enc_score_head.bias, expected)


def test_training_works_without_an_average_and_from_bytes(make_hardware, make_learner, make_batches):
    hardware, progress = make_hardware(), Progress()
    batches = [((images * 255).to(torch.uint8), targets) for images, targets in make_batches([1, 2], 1)]
    train(make_learner(hardware, ema=False), batches, hardware, progress)
    assert progress.step == 2


def spoil_the_gradient(learner, at_step: int):
    """Makes the gradient of one step infinite, its loss left alone."""
    calls = 0

    def spoiled(gradient):
        nonlocal calls
        calls += 1
        return gradient * math.inf if calls == at_step else gradient

    learner.model.decoder.enc_score_head.weight.register_hook(spoiled)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_whose_gradient_alone_is_not_finite_changes_nothing(
    make_hardware, make_learner, make_batches, precision
):
    hardware, progress = make_hardware(precision=precision), Progress()
    learner = make_learner(hardware)
    batches = make_batches([2, 1, 3, 0], 2)
    train(learner, batches[:1], hardware, progress)
    before = states(learner, progress)
    spoil_the_gradient(learner, at_step=1)
    (report,) = train(learner, batches[1:], hardware, progress)
    assert not math.isfinite(report.gradient_norm) and math.isfinite(sum(report.losses.values()))
    after = states(learner, progress)
    torch.testing.assert_close(after[:3], before[:3], atol=0, rtol=0)
    assert after[3] == before[3]
    assert after[4].get("scale") == (before[4]["scale"] / 2 if precision == "fp16" else None)
    assert (progress.step, progress.skipped_in_a_row, progress.batch) == (1, 1, 2)


class Arrival:
    """In place of a GPU's event: the figures of a step come when they are waited for."""

    def synchronize(self) -> None:
        pass


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_hearing_of_a_step_one_step_later_changes_nothing(
    make_hardware, make_learner, make_batches, monkeypatch, precision
):
    hardware, outcomes, ious = make_hardware(precision=precision), [], []
    for event in (None, Arrival()):
        monkeypatch.setattr("neo_model.engine.training_loop.event_now", lambda device, event=event: event)
        learner, progress = make_learner(hardware, warmup_steps=20), Progress()
        spoil_the_gradient(learner, at_step=3)
        batches = spoil(make_batches([2, 1, 3, 0, 4, 1], 1), 3)
        torch.manual_seed(0)
        reports = train(learner, batches, hardware, progress)
        assert [math.isfinite(report.gradient_norm) for report in reports] == [True, True, False, False, True, True]
        outcomes.append((*states(learner, progress), [(r.losses, r.learning_rate, r.image_ids) for r in reports]))
        ious.append([report.matched_ious for report in reports])
    now, later = outcomes
    torch.testing.assert_close(*ious, atol=0, rtol=0)
    torch.testing.assert_close(later[:3], now[:3], atol=0, rtol=0)
    assert later[3:6] == now[3:6] and repr(later[6]) == repr(now[6])


class HostReads(TorchDispatchMode):
    """Counts how often a step reads values of tensors, for each of which the host would wait for a GPU."""

    VALUE_READERS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal")

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self.counts = Counter()
        for name in ("numpy", "tolist"):  # these read memory without an operation
            monkeypatch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))

    def _counted(self, name, method):
        def counted(tensor, *arguments, **keywords):
            self.counts[name] += 1
            return method(tensor, *arguments, **keywords)

        return counted

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        name = operation.name().removeprefix("aten::").partition(".")[0]
        if name in self.VALUE_READERS:
            self.counts[name] += 1
        masks = [index for index in arguments[1] if index is not None] if name in ("index", "index_put_") else []
        self.counts["boolean index"] += sum(index.dtype == torch.bool for index in masks)
        return operation(*arguments, **(keywords or {}))


@pytest.mark.parametrize(("precision", "accumulate"), [("fp32", 1), ("bf16", 2), ("fp16", 1)])
def test_a_step_reads_from_the_device_in_the_matcher_only(
    make_hardware, make_learner, make_batches, monkeypatch, precision, accumulate
):
    hardware = make_hardware(precision=precision, accumulate=accumulate)
    learner, batches = make_learner(hardware), make_batches(COUNTS, 1)
    train(learner, batches[:accumulate], hardware)
    with HostReads(monkeypatch) as reads:
        train(learner, batches[accumulate : 3 * accumulate], hardware)
    # In two steps: the costs once a forward pass. The figures, which come by themselves, and the average's counter
    # lie in host memory.
    assert +reads.counts == {"numpy": 2 * accumulate, "tolist": 2, "_local_scalar_dense": 2}
