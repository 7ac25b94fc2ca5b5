"""The optimizer is PyTorch's AdamW, less what that imports."""

from copy import deepcopy

import torch
from torch import nn

from neo_model.optim import AdamW


def model_and_optimizer() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"backbone": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    return model, AdamW(lr=0.1, backbone_lr_ratio=0.5, weight_decay=0.01, betas=(0.8, 0.9)).build(model)


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for factor in (1.0, -2.0, 0.5):
        optimizer.zero_grad()
        model["head"](model["backbone"](torch.full((3, 4), factor))).square().sum().backward()
        optimizer.step()


def test_steps_and_state_are_those_of_pytorch_to_the_bit():
    (ours, optimizer), (theirs, like_it), (resumed, other) = (model_and_optimizer() for _ in range(3))
    peer = torch.optim.AdamW(like_it.param_groups, fused=True)
    take_steps(ours, optimizer)
    take_steps(theirs, peer)
    resumed.load_state_dict(theirs.state_dict())
    other.load_state_dict(deepcopy(peer.state_dict()))
    for model, its in ((ours, optimizer), (theirs, peer), (resumed, other)):
        take_steps(model, its)
    for model, its in ((ours, optimizer), (resumed, other)):
        torch.testing.assert_close(model.state_dict(), theirs.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(its.state_dict(), peer.state_dict(), rtol=0, atol=0)
    assert torch.is_grad_enabled()
