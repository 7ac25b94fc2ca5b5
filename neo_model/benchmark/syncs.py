"""How often the host waits for the GPU in a training step, counted on shapes alone; no GPU is needed.

Ours is the training loop itself, with fp16 and its scaler, clipping and the weight average; of ``transformers``' model,
forward and loss. Boxes are on the host, where the loader leaves them, for ours, and on the GPU for the peer.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from neo_model.benchmark.fake_gpu import fake_gpu, walk_backward
from neo_model.benchmark.subjects import our_criterion, our_model, peer_model, random_batch
from neo_model.benchmark.sync_counter import TO_HOST_LATER, WAITS, SyncCounter
from neo_model.benchmark.table import Report, Row, Table
from neo_model.engine import training_loop
from neo_model.engine.hardware import Hardware
from neo_model.engine.progress import Progress
from neo_model.engine.training_loop import Learner, train_one_epoch
from neo_model.optim import AdamW, Constant, Ema

IMAGES = {"num_images": 2, "num_boxes": 10}
SIZE = (480, 640)  # enough tokens for attention to mix before it projects, as in real sizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--depth", type=int, choices=(18, 50), default=50, help="of the backbone (50)")


def run(arguments: argparse.Namespace) -> Report:
    """Count ours and the peer."""
    counts = {"ours": count_ours(lambda: our_model(arguments.depth)), "transformers": count_peer(arguments.depth)}
    tables = [
        Table(f"R{arguments.depth}, {name}", [Row(kind, count[kind], "") for kind in (*WAITS, TO_HOST_LATER)])
        for name, count in counts.items()
    ]
    return Report("syncs", tables)


def count_ours(build_model: Callable[[], nn.Module]) -> Counter:
    """The second of two steps of the training loop: by then everything that is kept has been made."""
    with fake_gpu(), fake_engine():
        with torch.device("cuda"):
            model = build_model()
        images = random_batch(*SIZE, **IMAGES, device="cuda").images.to(torch.uint8)
        batch = (images, random_batch(*SIZE, **IMAGES).targets)
        learner, hardware = fake_learner(model), fake_hardware()
        counts = []
        for _ in range(2):
            with SyncCounter() as counter:
                train_one_epoch(learner, [batch], Progress(), hardware, after_step=lambda report: None)
            counts.append(counter.counts)
    return counts[-1]


def fake_hardware() -> Hardware:
    """Settings of a GPU that computes in fp16, on a machine that need not have one."""
    with mock.patch.object(torch.cuda, "is_available", lambda: True):
        return Hardware(device="cuda", precision="fp16")


def fake_learner(model: nn.Module) -> Learner:
    """With everything that a training has: scaler, clipping, average."""
    optimizer = AdamW(lr=1e-4, weight_decay=1e-4).build(model)
    scheduler = Constant().build(optimizer, steps_per_epoch=1, total_steps=1)
    scaler = torch.amp.GradScaler("cuda")
    return Learner(model, our_criterion(), optimizer, scheduler, scaler, Ema().build(model), 0.1)


@contextmanager
def fake_engine() -> Iterator[None]:
    """What the training loop needs of a GPU besides tensors: autograd's engine, an event, a list of figures."""
    event = SimpleNamespace(synchronize=lambda: None)
    with (
        mock.patch.object(torch.Tensor, "backward", lambda loss: walk_backward(lambda: loss)),
        mock.patch.object(training_loop, "event_now", lambda device: event),
        mock.patch.object(FakeTensor, "tolist", lambda tensor: [1.0] * tensor.numel(), create=True),
    ):
        yield


def count_peer(depth: int) -> Counter:
    """Forward and loss; the rest of its step depends on who writes the loop."""
    with fake_gpu():
        with torch.device("cuda"):
            model = peer_model(depth).train()
        batch = random_batch(*SIZE, **IMAGES, device="cuda")
        positives = IMAGES["num_images"] * IMAGES["num_boxes"] * (model.config.num_denoising // IMAGES["num_boxes"])

        def found(mask: Tensor) -> Tensor:  # how many is not known without values
            return mask.new_zeros(positives, mask.dim(), dtype=torch.int64)

        with mock.patch.object(torch, "nonzero", found), SyncCounter() as counter:
            with torch.autocast("cuda", dtype=torch.float16):
                model(pixel_values=batch.images, labels=batch.peer_targets)
    return counter.counts
