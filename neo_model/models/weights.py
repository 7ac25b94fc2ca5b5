"""Reading published and own weight files into a model, with an account of what was and was not loaded."""

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from neo_model.models.class_heads import CLASS_KEYS, COCO_NAMES, first_difference, same_classes, with_rows_of
from neo_model.models.deformable import DeformableAttention
from neo_model.models.hub import local_path
from neo_model.models.huggingface import is_safetensors, is_theirs, read_safetensors, sampling_of, to_ours
from neo_model.utils import UserError
from neo_model.utils.errors import UnreadableFile
from neo_model.utils.memory import is_out_of_memory
from neo_model.utils.sealed_file import check_seal
from neo_model.utils.untrusted import refuse_bomb

log = logging.getLogger(__name__)

# Buffers of published files that depend on one image size or are constants (ours are computed), and the embedding of
# denoising labels, which a model without denoising has no use for.
IGNORED = re.compile(
    r"(^|\.)(num_batches_tracked|anchors|valid_mask|pos_embed\d+|num_points_scale|denoising_class_embed\.weight)$"
)
# Files may lack these: published ones know no pixel buffers, constants are computed, and denoising only matters in
# training.
OPTIONAL = re.compile(
    r"(^|\.)(num_batches_tracked|num_points_scale)$|^pixel_(mean|std)$|^decoder\.denoising_class_embed\.weight$"
)
# The names that transformers gives classes without any.
UNNAMED = re.compile(r"LABEL_\d+")
SAMPLINGS = ("bilinear", "discrete")
# What some files number and others name.
NAMED = (
    (re.compile(r"^((?:encoder|decoder)\.input_proj\.\d+)\.0\."), r"\1.conv."),
    (re.compile(r"^((?:encoder|decoder)\.input_proj\.\d+)\.1\."), r"\1.norm."),
    (re.compile(r"^decoder\.enc_output\.0\."), "decoder.enc_output.proj."),
    (re.compile(r"^decoder\.enc_output\.1\."), "decoder.enc_output.norm."),
)


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did, by state-dict key.

    Attributes:
        loaded: taken from the file.
        reheaded: class layers, started afresh as asked but for the rows of ``classes_by_name``.
        fresh: kept fresh since the file lacks them.
        ignored: in the file and not needed.
        classes_by_name: the model's classes whose rows come from the file's class of that name.
        fresh_classes: the model's other classes, if it was told their names.
    """

    loaded: list[str]
    reheaded: list[str]
    fresh: list[str]
    ignored: list[str]
    classes_by_name: list[str] = field(default_factory=list)
    fresh_classes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for name in ("reheaded", "fresh", "ignored"):
            keys = getattr(self, name)
            if keys:
                parts.append(f"{len(keys)} {name} ({_some(keys)})")
        for what, names in (("by name", self.classes_by_name), ("fresh", self.fresh_classes)):
            if names:
                parts.append(f"{len(names)} classes {what} ({_some(names)})")
        return "; ".join(parts)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"


def load_weights(
    model: nn.Module, path: str | Path, *, rehead: bool = False, class_names: Sequence[str] = ()
) -> LoadReport:
    """Load a weight file into ``model`` in place.

    Reads the published ``.pth`` files of RT-DETR and RT-DETRv2 (``{"ema": {"module": ...}}``, ``{"model": ...}`` or a
    bare state dict), Hugging Face's of both (a folder with ``config.json`` and safetensors, or a ``.safetensors`` file)
    and our own ``.pt`` checkpoints; of files with averaged weights those are taken. Nothing but tensors and plain
    containers is ever unpickled.

    Args:
        model: an `RTDETR`.
        path: the file or folder; or ``hub:NAME``, a published file that is fetched, see `neo_model.models.hub`.
        rehead: start the class layers afresh, whatever classes the file has.
        class_names: the model's classes, if known. With ``rehead`` one that the file has as well starts from the
            file's; otherwise the file's have to be the same in the same order. A published file of 80 classes has
            COCO's.

    Raises:
        UserError: the file is missing, is no weight file, belongs to another model or, without ``rehead``, is of other
            classes.
    """
    path = local_path(path)
    file = read_weights(path)
    wanted = model.state_dict()
    own_name = {canonical_name(name): name for name in wanted}
    state = {own_name.get(name, name): value for name, value in file.state.items()}
    _refuse_another_models(path, state, wanted)
    reheaded = [k for k in wanted if rehead and CLASS_KEYS.match(k)]
    if not rehead:
        _refuse_other_classes(path, state, wanted)
        _refuse_other_names(path, names_of_classes(state, file.class_names), class_names)
    loaded = {k: v for k, v in state.items() if k in wanted and k not in reheaded}
    rows = same_classes(names_of_classes(state, file.class_names), class_names) if rehead else {}
    by_name = {k: with_rows_of(wanted[k], state[k], rows) for k in reheaded if k in state and rows}
    report = LoadReport(
        loaded=list(loaded),
        reheaded=reheaded,
        fresh=[k for k in wanted if k not in state and not k.endswith("num_batches_tracked")],
        ignored=[k for k in state if k not in wanted],
        classes_by_name=[class_names[i] for i in rows],
        fresh_classes=[name for i, name in enumerate(class_names) if rehead and i not in rows],
    )
    model.load_state_dict(loaded | by_name, strict=False)
    log.info("%s: %s", path, report)
    _say_another_sampling(path, file.sampling, model)
    return report


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    Attributes:
        state: its tensors under our names.
        class_names: of its classes, if it says them.
        sampling: how its model reads a map, ``bilinear`` or ``discrete``, if it says that.
    """

    state: dict[str, Tensor]
    class_names: list[str] | None
    sampling: str | None


def read_weights(path: str | Path) -> WeightFile:
    """The content of a file or folder in any of the forms that `load_weights` reads."""
    if is_safetensors(path):
        state, names = read_safetensors(path)
        return WeightFile(_canonical(state), names, sampling_of(path))
    content = read_tensors(path)
    names = _dict_in(content, "classes").get("names")
    model = _dict_in(_dict_in(content, "config"), "model")
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    sampling = model.get("sampling")
    return WeightFile(
        _canonical(unwrap(content)), names if named else None, sampling if sampling in SAMPLINGS else None
    )


def _dict_in(content: dict, key: str) -> dict:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _say_another_sampling(path: str | Path, trained: str | None, model: nn.Module) -> None:
    """Warn where the same weights mean something else: no tensor's name or shape tells the ways of sampling apart."""
    ours = {module.sampling for module in model.modules() if isinstance(module, DeformableAttention)}
    if trained is not None and ours and ours != {trained}:
        advice = f"model.sampling={trained} predicts as it did"
        log.warning("%s: was trained with %s sampling, this model has %s; %s", path, trained, *ours, advice)


def _canonical(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {canonical_name(k): v for k, v in (to_ours(state) if is_theirs(state) else state).items()}


def _refuse_another_models(path: str | Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise ``UserError`` unless the two differ in nothing but what may be absent, ignored or of other classes."""
    unexpected = [k for k in state if k not in wanted and not IGNORED.search(k)]
    missing = [k for k in wanted if k not in state and not OPTIONAL.search(k)]
    foreign = [k for k in wanted if k in state and not _fits(k, state[k], wanted[k])]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": foreign}
    found = [f"{len(keys)} tensors {kind} such as {keys[0]}" for kind, keys in kinds.items() if keys]
    if found:
        cause = f"belongs to another model ({', '.join(found)})"
        raise UserError(str(path), cause, "choose the model the weights were made for with model=")


def _fits(key: str, found: Tensor, wanted: Tensor) -> bool:
    """Whether the shapes are the same but for the number of classes."""
    first = int(CLASS_KEYS.match(key) is not None)
    return found.ndim == wanted.ndim and found.shape[first:] == wanted.shape[first:]


def names_of_classes(state: dict[str, Tensor], names: list[str] | None) -> list[str]:
    """The names of a file's classes, nothing if there are not as many as its layers count."""
    counts = {len(v) - ("embed" in k) for k, v in state.items() if CLASS_KEYS.match(k)}
    if names is None and counts == {len(COCO_NAMES)}:
        return COCO_NAMES
    return names if names is not None and counts == {len(names)} else []


def _refuse_other_classes(path: str | Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for key in ("decoder.enc_score_head.bias", "decoder.denoising_class_embed.weight"):
        if key in state and key in wanted and state[key].shape != wanted[key].shape:
            # The embedding has a row more, for padding.
            has, needs = (len(tensors[key]) - key.endswith("weight") for tensors in (state, wanted))
            raise UserError(
                str(path), f"has {has} classes, the data {needs}", "give rehead=true to start with fresh class heads"
            )


def _refuse_other_names(path: str | Path, theirs: list[str], ours: Sequence[str]) -> None:
    known = theirs and not all(map(UNNAMED.fullmatch, theirs))
    if known and len(ours) == len(theirs) and (i := first_difference(theirs, ours)) is not None:
        remedy = "give rehead=true to take the classes over by name, or bring them into the file's order"
        raise UserError(str(path), f"its class {i} is {theirs[i]!r}, that of the data {ours[i]!r}", remedy)


def read_tensors(path: str | Path) -> dict:
    """The content of a torch file, tensors and plain containers only; one of ours is compared with its SHA-256.

    Raises:
        DamagedFile: a checkpoint of ours that is not as it was written.
        UnreadableFile: the system refuses to read it, or there is no memory for it.
        UserError: no such file, not a torch file, or one that holds foreign objects.
    """
    try:
        check_seal(path)
        refuse_bomb(path)
        with warnings.catch_warnings():
            # Of a protocol of pickles that torch may not read, and of sparse tensors: the errors below say so.
            warnings.filterwarnings("ignore", message="Detected pickle protocol|Validating sparse tensor")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(str(path), "there is no such file", "give the path of a .pt or .pth file") from error
    except OSError as error:
        cause = f"cannot be read ({error.strerror or error})"
        raise UnreadableFile(str(path), cause, "see to its permissions and its disk, then try again") from error
    except Exception as error:  # torch's unpickler raises almost anything on a damaged file: no list is complete
        if is_out_of_memory(error):
            raise UnreadableFile(str(path), "does not fit into memory", "free some memory and try again") from error
        raise UserError(
            str(path), "is not a plain weight file (damaged, or it holds objects other than tensors)",
            "give a file of tensors; nothing else is ever unpickled",
        ) from error
    if not isinstance(content, dict):
        raise UserError(str(path), f"holds a {type(content).__name__}, not a state dict", "give a weight file")
    _refuse_odd_tensors(path, content)
    return content


def _refuse_odd_tensors(path: str | Path, content: dict) -> None:
    """Raise ``UserError`` for a tensor that is no dense array of values, or claims more of them than the file holds."""
    waiting, seen = [content], set()  # a pickle can hold one list a million times over, or within itself
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if not _is_whole_array(value):
                cause = "holds a tensor that is no dense array, or claims more values than are there"
                raise UserError(str(path), cause, "save it again with dense tensors, each with its own values")
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value


def _is_whole_array(tensor: Tensor) -> bool:
    is_dense = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_meta)
    if type(tensor) not in (Tensor, nn.Parameter) or not is_dense:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def unwrap(content: dict) -> dict[str, Tensor]:
    """The state dict within a checkpoint, averaged weights first."""
    for key in ("ema", "model", "state_dict"):
        if isinstance(content.get(key), dict):
            inner = content[key]
            content = inner.get("module", inner)
            break
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return {k.removeprefix("module."): v for k, v in tensors.items()}


def canonical_name(name: str) -> str:
    """A tensor's name without the numbers that published files of one version have where the other's have names."""
    for pattern, replacement in NAMED:
        name = pattern.sub(replacement, name)
    return name
