"""AdamW as RT-DETR is trained with it."""

from inspect import unwrap

import torch
from torch import nn

from neo_model.optim.groups import parameter_groups
from neo_model.utils import Fraction, NonNegativeFloat, PositiveFloat


class AdamW:
    """Settings of AdamW (Loshchilov & Hutter 2019) and of gradient clipping.

    Args:
        lr: learning rate of everything but the backbone.
        backbone_lr_ratio: the backbone's learning rate as a share of ``lr``, so that a sweep over ``lr`` keeps it.
        backbone_layer_decay: of the backbone's layers each learns at this share of the next one's rate.
        betas: decay of the two moments, each below 1.
        weight_decay: of all parameters but norms and biases.
        clip_norm: longest gradient over all parameters; null does not clip.
    """

    def __init__(
        self,
        *,
        lr: PositiveFloat,
        backbone_lr_ratio: PositiveFloat = 0.1,
        backbone_layer_decay: Fraction = 1.0,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        weight_decay: NonNegativeFloat = 1e-4,
        clip_norm: PositiveFloat | None = 0.1,
    ) -> None:
        if max(betas) >= 1:
            raise ValueError(f"betas={list(betas)} must be below 1, where a moment would never change")
        self.lr, self.backbone_lr_ratio, self.backbone_layer_decay = lr, backbone_lr_ratio, backbone_layer_decay
        self.betas, self.weight_decay, self.clip_norm = tuple(betas), weight_decay, clip_norm

    def build(self, model: nn.Module) -> torch.optim.AdamW:
        """The optimizer of ``model``, with one fused kernel for all parameters of a group, as CPUs and GPUs have it."""
        groups = parameter_groups(
            model,
            lr=self.lr,
            backbone_lr=self.lr * self.backbone_lr_ratio,
            weight_decay=self.weight_decay,
            layer_decay=self.backbone_layer_decay,
        )
        return _AdamW(groups, lr=self.lr, betas=self.betas, fused=True)


class _AdamW(torch.optim.AdamW):
    """PyTorch's without the wrappers by which its compiler leaves an optimizer out: they import it, compiled or not.

    That takes nearly as long as to import PyTorch.
    """

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
