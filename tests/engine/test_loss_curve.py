"""Fast forms change no training: thirty steps from a fixed seed have the same losses as with the plain forms."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.engine.progress import Progress
from neo_model.engine.training_loop import train_one_epoch
from neo_model.models import deformable, encoder, layers
from neo_model.models.decoder import Decoder
from tests.losses.plain import flat_pairs, plain_losses
from tests.models.plain import select_after_the_heads

STEPS = 30


class PlainCriterion(nn.Module):
    """Every layer matched and judged by itself."""

    def forward(self, outputs: dict, targets: list[dict], *, num_boxes: float) -> dict[str, Tensor]:
        terms = []
        for layer in [outputs, *outputs["aux_outputs"]]:
            terms += plain_losses(layer, targets, num_boxes=num_boxes, pairs_of=flat_pairs(layer, targets))
        meta = outputs["dn_meta"]
        pairs = list(zip(meta["dn_positive_idx"], meta["dn_target_idx"], strict=True))
        for layer in outputs["dn_aux_outputs"]:
            terms += plain_losses(layer, targets, num_boxes=num_boxes * meta["dn_num_group"], pairs_of=pairs)
        return {str(i): term for i, term in enumerate(terms)}

    def matched_ious(self) -> dict[str, Tensor]:
        return {}


def normalize_then_silu(inputs: list[Tensor], norms: list[nn.Module]) -> Tensor:
    """What `normalized_silu` computes, as its equation is written."""
    return F.silu(sum(norm(x) for x, norm in zip(inputs, norms, strict=True)))


@pytest.fixture
def loss_curve(make_learner, make_batches, make_hardware):
    def train(*, recompute: tuple = (), criterion: nn.Module | None = None) -> list[float]:
        hardware = make_hardware()
        # At full speed from the start, batch norm over four images of noise would amplify one rounding to 1e-4.
        learner = make_learner(hardware, num_queries=10, clip_norm=1.0, warmup_steps=3 * STEPS)
        learner.model.recompute(recompute)
        if criterion is not None:
            learner = replace(learner, criterion=criterion)
        reports = []
        batches = make_batches([3, 1, 2, 4], 4) * STEPS
        torch.manual_seed(1)  # of the denoising queries' noise
        train_one_epoch(learner, batches, Progress(), hardware, reports.append)
        return [sum(report.losses.values()) for report in reports]

    return train


@pytest.mark.slow
def test_thirty_steps_have_the_losses_of_the_plain_forms(loss_curve, monkeypatch):
    monkeypatch.setattr(deformable, "mixing_first_pays", lambda memory, num_queries: True)
    fast, recomputed = loss_curve(), loss_curve(recompute=("backbone", "encoder"))

    monkeypatch.setattr(deformable, "mixing_first_pays", lambda memory, num_queries: False)
    monkeypatch.setattr(Decoder, "_select", select_after_the_heads)
    for module in (layers, encoder):
        monkeypatch.setattr(module, "normalized_silu", normalize_then_silu)
    monkeypatch.setattr(encoder, "joined", lambda *maps: torch.cat(maps, dim=1))
    plain = loss_curve(criterion=PlainCriterion())

    assert len(plain) == STEPS and plain[-1] < 0.9 * plain[0]
    assert fast[0] == pytest.approx(plain[0], rel=1e-5)  # of the same weights
    assert fast == pytest.approx(plain, rel=1e-4)
    assert recomputed == pytest.approx(plain, rel=1e-4)
