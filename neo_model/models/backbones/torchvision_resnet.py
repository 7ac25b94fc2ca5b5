"""torchvision's ResNets as backbones, with its ImageNet weights when asked for."""

from typing import Literal

from torch import Tensor, nn

from neo_model.models.backbones.pretrained import load_pretrained
from neo_model.models.layers import FrozenBatchNorm2d
from neo_model.models.recompute import run


def _freeze_norms(module: nn.Module) -> None:
    """Replace every batch norm below ``module`` by a frozen one that keeps its parameters and statistics."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            state = {k: v for k, v in child.state_dict().items() if k != "num_batches_tracked"}
            frozen.load_state_dict(state)
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)


class TorchvisionResNet(nn.Module):
    """A torchvision ResNet feature pyramid, [B, 3, H, W] -> three maps at strides 8, 16 and 32 (sizes round up).

    Args:
        name: torchvision's name of the model.
        weights: ``imagenet`` fetches torchvision's default ImageNet weights, a path reads a local state dict,
            None starts from random values.
        freeze_stem: the first convolution and its norm take no gradient.
        freeze_norm: batch norm with fixed statistics everywhere, those of the loaded weights.

    Raises:
        UserError: the weights cannot be fetched or do not fit.
    """

    pixel_mean = (0.485, 0.456, 0.406)
    pixel_std = (0.229, 0.224, 0.225)

    def __init__(
        self,
        *,
        name: Literal["resnet18", "resnet34", "resnet50", "resnet101"],
        weights: str | None = None,
        freeze_stem: bool = False,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        # Only here: it takes half a second, which trainings of other backbones are spared.
        from torchvision.models import get_model, get_model_weights
        from torchvision.models._utils import IntermediateLayerGetter

        model = get_model(name, weights=None)
        if weights is not None:
            load_pretrained(model, weights, url=get_model_weights(name).DEFAULT.url)
        if freeze_norm:
            _freeze_norms(model)
        self.out_channels = [getattr(model, f"layer{i}")[-1].conv1.in_channels for i in (2, 3, 4)]
        self.body = IntermediateLayerGetter(model, {"layer2": "2", "layer3": "3", "layer4": "4"})
        if freeze_stem:
            self.body["conv1"].requires_grad_(False)
            self.body["bn1"].requires_grad_(False)

    @property
    def blocks(self) -> list[nn.Module]:
        """What can be recomputed on its own."""
        return [self.body[f"layer{i}"] for i in (1, 2, 3, 4)]

    @property
    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters of the stem and of each stage."""
        stem = [*self.body["conv1"].parameters(), *self.body["bn1"].parameters()]
        return [stem, *(list(block.parameters()) for block in self.blocks)]

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images, []
        for layer in self.body.values():
            x = run(layer, x)
            maps.append(x)
        return maps[-3:]
