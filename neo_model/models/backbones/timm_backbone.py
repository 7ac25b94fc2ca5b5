"""Any of timm's models with maps at strides 8, 16 and 32 as a backbone; ``pip install -e ".[timm]"`` brings timm."""

import difflib
import math

from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.models.backbones.pretrained import IMAGENET, load_pretrained
from neo_model.models.recompute import run
from neo_model.utils import NonNegativeInt, UserError

STRIDES = (8, 16, 32)


class Intermediates(nn.Module):
    """A timm model that returns the maps of some of its stages, [B, C, H, W] each."""

    draws_random_numbers = True  # some drop whole paths

    def __init__(self, model: nn.Module, indices: list[int]) -> None:
        super().__init__()
        self.model, self.indices = model, indices

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(
            images, indices=self.indices, intermediates_only=True, norm=False, output_fmt="NCHW"
        )


class TimmBackbone(nn.Module):
    """A timm feature pyramid, [B, 3, H, W] -> three maps at strides 8, 16 and 32 (sizes round up).

    Images are padded to sides that 32 divides, with the mean colour, and the maps cut back: timm's models differ in
    what they do with a last odd line.

    Args:
        name: timm's name of the model.
        weights: ``imagenet`` lets timm fetch its default weights, a path reads a local state dict, None starts from
            random values.
        frozen_stages: stages that take no gradient and keep their statistics, the stem counted as the first one.

    Raises:
        UserError: timm is not installed, has no such model or one without these maps, or the weights cannot be fetched
            or do not fit.
    """

    def __init__(self, *, name: str, weights: str | None = None, frozen_stages: NonNegativeInt = 0) -> None:
        super().__init__()
        model = _model(name, fetch=weights == IMAGENET)
        if weights not in (None, IMAGENET):
            load_pretrained(model, weights, url=None)
        indices = _indices(name, model)
        self.out_channels = [model.feature_info[i]["num_chs"] for i in indices]
        self.pixel_mean, self.pixel_std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
        model.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
        self.body = Intermediates(model, indices)
        stages = self._groups(coarse=True)
        if frozen_stages > len(stages):
            raise ValueError(f"frozen_stages={frozen_stages} is more than the {len(stages)} of {name}")
        frozen = [parameter for stage in stages[:frozen_stages] for parameter in stage]
        for parameter in frozen:
            parameter.requires_grad_(False)
        ids = {id(parameter) for parameter in frozen}
        self._frozen = [m for m in model.modules() if ids.intersection(map(id, m.parameters(recurse=False)))]

    def _groups(self, *, coarse: bool) -> list[list[nn.Parameter]]:
        from timm.models import group_parameters

        model = self.body.model
        names = group_parameters(model, model.group_matcher(coarse=coarse))
        parameters = dict(model.named_parameters())
        return [[parameters[name] for name in names[group]] for group in sorted(names)]

    @property
    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters by layer from the images on, as timm groups them."""
        return self._groups(coarse=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """What can be recomputed on its own: timm's models only as a whole."""
        return [self.body]

    def train(self, mode: bool = True) -> "TimmBackbone":
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        maps = run(self.body, F.pad(images, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1])))
        return [
            x[..., : math.ceil(height / stride), : math.ceil(width / stride)]
            for x, stride in zip(maps, STRIDES, strict=True)
        ]


def _model(name: str, *, fetch: bool) -> nn.Module:
    """timm's whole model, for any image size where its own would be fixed otherwise."""
    key = f"model.backbone.name={name}"
    try:
        import timm
    except ImportError as error:
        raise UserError(key, "needs timm", 'pip install -e ".[timm]", or choose another model/backbone') from error
    if not timm.is_model(name):  # nor an address from which timm would fetch a model that it does not know
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(key, "is no model of timm", f"did you mean {' or '.join(near)}?" if near else "see timm's list")
    try:
        timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(timm.models.split_model_name_tag(name)[0]))
        raise UserError(key, "has a tag that timm does not know", f"use one of {known}, or none") from error
    try:
        try:
            return timm.create_model(name, pretrained=fetch, strict_img_size=False)
        except TypeError:  # most models have no size to be strict about
            return timm.create_model(name, pretrained=fetch)
    except Exception as error:  # the hub's client raises almost anything where there is no network
        if not fetch:
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = "use model.backbone.weights=null, or the path of a file of timm's weights"
        raise UserError(f"{key} weights={IMAGENET}", f"timm cannot fetch them ({said})", remedy) from error


def _indices(name: str, model: nn.Module) -> list[int]:
    """Of the model's stages the last at each of the three strides."""
    strides = [info["reduction"] for info in model.feature_info]
    if not set(STRIDES) <= set(strides):
        cause = f"has maps at strides {', '.join(map(str, sorted(set(strides))))}, not 8, 16 and 32"
        raise UserError(f"model.backbone.name={name}", cause, "choose a model that halves its maps step by step")
    return [max(i for i, found in enumerate(strides) if found == stride) for stride in STRIDES]
