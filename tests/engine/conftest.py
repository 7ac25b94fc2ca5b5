"""A learner around a small detector, and batches for it."""

import pytest
import torch
from torch import nn

from neo_model.engine import Hardware
from neo_model.engine.training_loop import Learner
from neo_model.losses import Criterion, HungarianMatcher
from neo_model.optim import AdamW, Constant, Ema

HEIGHT, WIDTH = 64, 96


def still(module: nn.Module) -> nn.Module:
    """Every batch norm below ``module`` stays in evaluation mode, whatever mode is asked for."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
            norm.train = lambda mode=True, norm=norm: norm
    return module


@pytest.fixture
def make_hardware():
    def make(**options) -> Hardware:
        return Hardware(**{"device": "cpu", "precision": "fp32", "workers": 0, **options})

    return make


@pytest.fixture
def make_learner(make_model):
    """A learner with a fresh copy of the same model each time; its fp16 scale is one that overflows nothing."""

    def make(
        hardware: Hardware, *, clip_norm=0.1, optimizer=None, ema=True, warmup_steps=10, scale=16.0, **model
    ) -> Learner:
        detector = hardware.place_model(make_model(**model))
        settings = AdamW(lr=1e-3, clip_norm=clip_norm)
        optimizer = optimizer(detector.parameters()) if optimizer else settings.build(detector)
        scaler = hardware.grad_scaler()
        if scaler.is_enabled():
            scaler.load_state_dict(scaler.state_dict() | {"scale": scale})
        schedule = Constant(warmup_steps=warmup_steps)
        return Learner(
            model=detector,
            criterion=Criterion(num_classes=3, matcher=HungarianMatcher()),
            optimizer=optimizer,
            scheduler=schedule.build(optimizer, steps_per_epoch=10, total_steps=100),
            scaler=scaler,
            ema=Ema(decay=0.9, ramp=2.0).build(detector) if ema else None,
            clip_norm=clip_norm,
        )

    return make


@pytest.fixture
def make_batches(make_targets):
    """Batches of ``batch_size`` out of one row of images whose counts of boxes are given."""

    def make(counts: list[int], batch_size: int) -> list[tuple[torch.Tensor, list[dict]]]:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(len(counts), 3, HEIGHT, WIDTH, generator=generator)
        targets = [target | {"image_id": 100 + i} for i, target in enumerate(make_targets(*counts))]
        starts = range(0, len(counts), batch_size)
        return [(images[i : i + batch_size], targets[i : i + batch_size]) for i in starts]

    return make
