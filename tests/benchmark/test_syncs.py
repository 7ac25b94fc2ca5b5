"""The host waits for the GPU once a training step, and the counter that says so misses no other way to wait."""

import pytest
import torch

from neo_model.benchmark import sync_counter
from neo_model.benchmark.fake_gpu import fake_gpu
from neo_model.benchmark.sync_counter import SyncCounter
from neo_model.benchmark.syncs import count_ours
from neo_model.models import RTDETR, ResNetVD

WAYS = {
    "cpu": (lambda x: x.cpu(), sync_counter.TO_HOST),
    "copy_": (lambda x: torch.empty(3).copy_(x), sync_counter.TO_HOST),
    "non-blocking": (lambda x: x.to("cpu", non_blocking=True), sync_counter.TO_HOST_LATER),
    "to the GPU": (lambda x: torch.ones(3).to("cuda"), sync_counter.FROM_HOST),
    "to the GPU, not page-locked": (lambda x: torch.ones(3).to("cuda", non_blocking=True), sync_counter.FROM_HOST),
    "bool": (lambda x: bool(x.sum() > 0), sync_counter.READ),
    "item": (lambda x: x.sum().item(), sync_counter.READ),
    "indexing": (lambda x: x[torch.tensor([0, 2])], sync_counter.BY_HOST_INDEX),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_wait_is_counted(way):
    call, kind = WAYS[way]
    with fake_gpu():
        x = torch.ones(3, device="cuda")
        with SyncCounter() as counter:
            call(x + 1)
    assert +counter.counts == {kind: 1}


def test_a_copy_from_page_locked_memory_is_no_wait():
    with fake_gpu(), SyncCounter() as counter:
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert not +counter.counts


@pytest.mark.slow
def test_a_training_step_waits_for_the_gpu_once():
    """In the matcher; the step's figures are read a step later, when they have long arrived."""
    def build():
        return RTDETR(
            backbone=ResNetVD(depth=10, width=16), num_classes=5, encoder_dim=32, decoder_dim=32, num_decoder_layers=2
        )

    assert +count_ours(build) == {sync_counter.TO_HOST: 1, sync_counter.TO_HOST_LATER: 1}
