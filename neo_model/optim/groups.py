"""Which parameter learns how fast and decays or not."""

from torch import nn

from neo_model.utils import UserError

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def parameter_groups(
    model: nn.Module, *, lr: float, backbone_lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """Groups for an optimizer: backbone or not, decayed or not; equal settings share a group.

    Norms are told by module type and biases by name, so that no naming scheme slips through. Frozen parameters are
    left out.

    Args:
        model: its ``backbone`` learns at ``backbone_lr``.
        lr, backbone_lr: learning rates.
        weight_decay: of everything but norms and biases.
        layer_decay: of the backbone's layers each learns at this share of the next one's rate, the last at
            ``backbone_lr`` (Clark et al. 2020, section 3.2).

    Raises:
        RuntimeError: the groups do not hold each trainable parameter exactly once.
        UserError: the backbone does not tell its layers apart.
    """
    undecayed = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or name.endswith("bias")
    }
    backbone_lrs = _backbone_rates(model.backbone, backbone_lr, layer_decay)
    groups: dict[tuple[float, float], dict] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        group_lr = backbone_lrs.get(id(parameter), lr)
        decay = 0.0 if id(parameter) in undecayed else weight_decay
        group = groups.setdefault((group_lr, decay), {"params": [], "lr": group_lr, "weight_decay": decay})
        group["params"].append(parameter)
    grouped = [id(p) for group in groups.values() for p in group["params"]]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    if len(grouped) != len(set(grouped)) or set(grouped) != trainable:
        raise RuntimeError("parameter groups must hold every trainable parameter exactly once")
    return list(groups.values())


def _backbone_rates(backbone: nn.Module, lr: float, layer_decay: float) -> dict[int, float]:
    """The rate of each of the backbone's parameters, by the parameter's id."""
    rates = {id(parameter): lr for parameter in backbone.parameters()}
    if layer_decay == 1:
        return rates
    if not hasattr(backbone, "layers"):
        cause = f"{type(backbone).__name__} does not tell its layers apart"
        raise UserError(f"optim.backbone_layer_decay={layer_decay}", cause, "give it a property layers, or use 1")
    for steps, layer in enumerate(reversed(backbone.layers)):
        rates |= {id(parameter): lr * layer_decay**steps for parameter in layer}
    return rates
