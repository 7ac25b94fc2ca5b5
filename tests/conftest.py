"""A detector small enough for tests, targets for it, and a server of files."""

import os
import threading

import pytest
import torch

from neo_model.models import RTDETR, ResNetVD
from tests.file_server import Server

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a process of pytest a core: more threads, of this one and of the commands it starts, would only wait.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

SMALL = {
    "encoder_dim": 32,
    "encoder_feedforward_dim": 64,
    "decoder_dim": 32,
    "decoder_feedforward_dim": 64,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "num_queries": 20,
    "num_denoising": 10,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests, those with a limit of their own, come first: or one process would end long after the others."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture
def make_model():
    """Builds a small `RTDETR` with the same weights each time; keywords replace its arguments or the backbone's."""

    def make(*, num_classes: int = 3, seed: int = 0, **options) -> RTDETR:
        torch.manual_seed(seed)
        frozen = {name: options.pop(name) for name in ("freeze_stem", "freeze_norm") if name in options}
        backbone = options.pop("backbone", None) or ResNetVD(depth=10, width=8, **frozen)
        return RTDETR(backbone=backbone, num_classes=num_classes, **{**SMALL, **options})

    return make


@pytest.fixture
def make_targets():
    """Random targets: one image for each count of boxes."""

    def make(*counts: int, num_classes: int = 3, seed: int = 0) -> list[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        targets = []
        for count in counts:
            size = torch.rand(count, 2, generator=generator) * 0.3 + 0.05
            centre = torch.rand(count, 2, generator=generator) * (1 - size) + size / 2
            labels = torch.randint(num_classes, (count,), generator=generator)
            targets.append({"labels": labels, "boxes": torch.cat((centre, size), dim=1)})
        return targets

    return make


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
