"""Every model of conf/model and what it costs; ``python -m neo_model.models.list --help`` says how."""

import re
import sys
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from neo_model.models.fusion import fused
from neo_model.models.hub import LICENCE, PUBLISHED
from neo_model.utils import UserError

HELP = """\
List the models with their parameters, arithmetic, published AP on COCO and published weights.

usage: python -m neo_model.models.list [NAME ...]

  NAME  models of conf/model; all of them without

Parameters are counted as in training, with 80 classes. GFLOPs are the convolutions, matrix products and attentions of
one image's inference, norms and branches merged, a multiplication and an addition counted as two; they are counted on
shapes, so no weights are made. AP is what the authors published for 640x640. weights=hub:NAME fetches a file.
"""
NUM_CLASSES = 80
SIZES_HW = ((640, 640), (1080, 1920))


@dataclass(frozen=True)
class Entry:
    """A line of the list.

    Attributes:
        name: in conf/model.
        parameters: as in training.
        flops: of an image's inference, for each of ``SIZES_HW``.
        published_ap: AP on COCO in percent as its authors published it, None if they did not.
        weights: names of published files, for ``hub:``.
    """

    name: str
    parameters: int
    flops: tuple[int, ...]
    published_ap: float | None
    weights: list[str]

    def __str__(self) -> str:
        ap = "-" if self.published_ap is None else f"{self.published_ap:.1f}"
        flops = "".join(f"{count / 1e9:>11.1f}" for count in self.flops)
        weights = f"{', '.join(self.weights)} ({LICENCE})" if self.weights else "-"
        return f"{self.name:<20}{self.parameters / 1e6:>7.1f}{flops}{ap:>6}  {weights}"


def entry_of(name: str) -> Entry:
    """Build a model on shapes alone and count.

    Raises:
        UserError: there is no such model.
    """
    from neo_model.config.build import build_model  # an entry point's need: models do without the configuration

    with torch.device("meta"):
        model = build_model(name, num_classes=NUM_CLASSES)
    return Entry(
        name=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=tuple(inference_flops(model, size_hw) for size_hw in SIZES_HW),
        published_ap=published_ap(name),
        weights=[published for published in PUBLISHED if published.partition("_coco")[0] == name],
    )


def published_ap(name: str) -> float | None:
    """What the first comment of the model's file says."""
    from neo_model.config.compose import CONF
    from neo_model.config.manual import description

    found = re.search(r"(\d+\.\d) AP\b", description(CONF / "model" / f"{name}.yaml"))
    return float(found[1]) if found else None


@torch.no_grad()
def inference_flops(model: torch.nn.Module, size_hw: tuple[int, int]) -> int:
    """Operations of one image's inference with a copy of ``model``, which lies on the meta device."""
    model = fused(model)
    # Not on the meta device: autocast does not know it.
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        model.to_empty(device="cpu")(torch.empty(1, 3, *size_hw))
    return counter.get_total_flops()


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    from neo_model.config.compose import choices

    sizes = "".join(f"{f'{width}x{height}':>11}" for height, width in SIZES_HW)
    print(f"{'':<27}{'GFLOPs':>11}\n{'model':<20}{'M par.':>7}{sizes}{'AP':>6}  weights")
    try:
        for name in arguments or choices("model"):
            print(entry_of(name))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
