"""Fast forms change no training: thirty steps from a fixed seed have the same losses as with the plain forms."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neo_model.engine.progress import Progress
from neo_model.engine.training_loop import train_one_epoch
from neo_model.models import deformable, encoder, layers

STEPS = 30


def plain_norm_silu(inputs: list[Tensor], norms: list) -> Tensor:
    """The equation as it is written."""
    return F.silu(sum(norm(x) for x, norm in zip(inputs, norms, strict=True)))


def plain_join(*maps: Tensor) -> Tensor:
    return torch.cat(maps, dim=1)


@pytest.fixture
def loss_curve(make_learner, make_batches, make_hardware):
    def train(recompute: tuple = ()) -> list[float]:
        hardware = make_hardware()
        # At full speed from the start, batch norm over four images of noise would amplify one rounding to 1e-4.
        learner = make_learner(hardware, num_denoising=0, num_queries=10, clip_norm=1.0, warmup_steps=STEPS)
        learner.model.recompute(recompute)
        reports = []
        batches = make_batches([3, 1, 2, 4], 4) * STEPS
        train_one_epoch(learner, batches, Progress(), hardware, reports.append)
        return [sum(report.losses.values()) for report in reports]

    return train


def test_thirty_steps_have_the_losses_of_the_plain_forms(loss_curve, monkeypatch):
    monkeypatch.setattr(deformable, "mixing_first_pays", lambda memory, num_queries: True)
    fast, recomputed = loss_curve(), loss_curve(recompute=("backbone", "encoder"))
    monkeypatch.setattr(deformable, "mixing_first_pays", lambda memory, num_queries: False)
    for module in (layers, encoder):
        monkeypatch.setattr(module, "normalized_silu", plain_norm_silu)
    monkeypatch.setattr(encoder, "joined", plain_join)
    plain = loss_curve()
    assert len(plain) == STEPS and plain[-1] < 0.9 * plain[0]
    assert fast == pytest.approx(plain, rel=1e-4)
    assert recomputed == pytest.approx(plain, rel=1e-4)
