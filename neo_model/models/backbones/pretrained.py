"""The weights that a backbone starts from: fetched, or from a file."""

from pathlib import Path

from torch import Tensor, nn

from neo_model.models.hub import fetched
from neo_model.models.weights import read_tensors, unwrap
from neo_model.utils import UserError

IMAGENET = "imagenet"


def load_pretrained(backbone: nn.Module, weights: str, *, url: str | None) -> None:
    """Load weights into ``backbone`` in place.

    Args:
        backbone: module whose names are those of the file.
        weights: ``imagenet`` fetches ``url`` into the cache (see `neo_model.models.hub`), anything else is the path of a file.
        url: the published file; None where there is none.

    Raises:
        UserError: the weights cannot be fetched or read, or do not fit.
    """
    key = f"model.backbone.weights={weights}"
    state = unwrap(read_tensors(_fetched(key, url) if weights == IMAGENET else weights))
    # A counter that batch norms with a fixed momentum never read; frozen ones have none.
    missing, unexpected = [
        [name for name in names if not name.endswith("num_batches_tracked")]
        for names in _load_what_fits(backbone, state, key)
    ]
    if missing or unexpected:
        cause = f"belongs to another backbone ({len(missing)} tensors missing, {len(unexpected)} unexpected)"
        raise UserError(key, cause, "give the file of this depth and width")


def _load_what_fits(backbone: nn.Module, state: dict[str, Tensor], key: str):
    try:
        return backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(key, "has tensors of other shapes", "give the file of this depth and width") from error


def _fetched(key: str, url: str | None) -> Path:
    if url is None:
        raise UserError(key, "is not published for this depth", "use model.backbone.weights=null")
    try:
        return fetched(url, key=key)
    except UserError as error:
        remedy = (
            f"{error.remedy} or give it by model.backbone.weights=FILE; or start from random values with "
            "model.backbone.weights=null model.backbone.freeze_stem=false model.backbone.freeze_norm=false"
        )
        raise UserError(error.where, error.cause, remedy) from error
