"""Recomputation changes what is kept, not what is learnt."""

import copy

import pytest
import torch

from neo_model.losses import Criterion, HungarianMatcher
from neo_model.models import TorchvisionResNet
from neo_model.models.layers import ConvNorm
from neo_model.models.recompute import run

PARTS = [["backbone"], ["encoder"], ["backbone", "encoder"]]


def one_step(model, images, targets, *, autocast: bool = False) -> list[torch.Tensor]:
    """The loss, every gradient and every buffer after a forward and backward pass; the same noise every time."""
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs = model.train()(images, targets)
    loss = sum(Criterion(num_classes=3, matcher=HungarianMatcher())(outputs, targets).values())
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("torchvision", [False, True])
def test_loss_gradients_and_statistics_are_the_same(make_model, make_targets, parts, autocast, torchvision):
    model = make_model(backbone=TorchvisionResNet(name="resnet18") if torchvision else None)
    twin = copy.deepcopy(model)
    twin.recompute(parts)
    images, targets = torch.rand(2, 3, 96, 160), make_targets(3, 1)
    results = [one_step(m, images, targets, autocast=autocast) for m in (model, twin)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_a_compiled_block_is_recomputed_alike():
    torch._dynamo.reset()
    torch.manual_seed(0)
    block = ConvNorm(3, 6, kernel_size=3).double().train()
    twin = copy.deepcopy(block)
    block.recomputed = twin.recomputed = True
    compiled = torch.compile(lambda x: run(twin, x), backend="aot_eager", dynamic=False, fullgraph=True)
    images, results = torch.rand(2, 3, 8, 9, dtype=torch.float64), []
    for layer, compute in ((block, lambda x: run(block, x)), (twin, compiled)):
        for _ in range(2):
            compute(images).square().sum().backward()
        results.append([*(p.grad for p in layer.parameters()), *layer.buffers()])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def kept_bytes(model, images, targets) -> int:
    """Of all tensors that the forward pass leaves for the backward pass, each storage once."""
    storages = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.train()(images, targets)
    return sum(storage.nbytes() for storage in storages.values())


def test_less_is_kept_and_it_can_be_turned_off_again(make_model, make_targets):
    model = make_model()
    images, targets = torch.rand(2, 3, 256, 320), make_targets(3, 1)
    plain = kept_bytes(model, images, targets)
    for parts in PARTS:
        model.recompute(parts)
        assert kept_bytes(model, images, targets) < 0.9 * plain
    model.recompute([])
    assert kept_bytes(model, images, targets) == plain
