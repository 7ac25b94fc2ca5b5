"""Which parameter learns how fast and decays or not."""

from torch import nn

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def parameter_groups(model: nn.Module, *, lr: float, backbone_lr: float, weight_decay: float) -> list[dict]:
    """Groups for an optimizer: backbone or not, decayed or not; equal settings share a group.

    Norms are told by module type and biases by name, so that no naming scheme slips through. Frozen parameters are
    left out.

    Args:
        model: its ``backbone`` learns at ``backbone_lr``.
        lr, backbone_lr: learning rates.
        weight_decay: of everything but norms and biases.

    Raises:
        RuntimeError: the groups do not hold each trainable parameter exactly once.
    """
    undecayed = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or name.endswith("bias")
    }
    in_backbone = {id(parameter) for parameter in model.backbone.parameters()}
    groups: dict[tuple[float, float], dict] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        group_lr = backbone_lr if id(parameter) in in_backbone else lr
        decay = 0.0 if id(parameter) in undecayed else weight_decay
        group = groups.setdefault((group_lr, decay), {"params": [], "lr": group_lr, "weight_decay": decay})
        group["params"].append(parameter)
    grouped = [id(p) for group in groups.values() for p in group["params"]]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    if len(grouped) != len(set(grouped)) or set(grouped) != trainable:
        raise RuntimeError("parameter groups must hold every trainable parameter exactly once")
    return list(groups.values())
