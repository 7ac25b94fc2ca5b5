"""Hugging Face's RT-DETR and RT-DETRv2: their weight files read under our names, ours written under theirs.

A template such as ``model.decoder.layers.#`` stands for every number in the place of ``#``.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from neo_model.utils import UserError
from neo_model.utils.errors import CONTROL_CHARACTERS

SINGLE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
# Names within a running model of newer versions, which files do not have.
NEWER = ((r"\bo_proj\.", "out_proj."), (r"\.mlp\.fc", ".fc"), (r"^model\.encoder\.aifi\.", "model.encoder.encoder."))
# One projection here, three there: the rows of queries, keys and values.
THREE = re.compile(r"(.*self_attn\.)([qkv])_proj\.(weight|bias)")
ONE = re.compile(r"(.*self_attn\.)in_proj_(weight|bias)")


def _templates() -> Iterator[tuple[str, str]]:
    """Their names and ours; a name begins with one of them."""
    stages, ours = "model.backbone.model.encoder.stages.#.layers.#", "backbone.res_layers.#.blocks.#"
    for conv, short_conv in (("convolution", "conv"), ("normalization", "norm")):
        for i in range(3):
            yield f"model.backbone.model.embedder.embedder.{i}.{conv}", f"backbone.conv1.conv1_{i + 1}.{short_conv}"
            yield f"{stages}.layer.{i}.{conv}", f"{ours}.branch2{'abc'[i]}.{short_conv}"
        yield f"{stages}.shortcut.1.{conv}", f"{ours}.short.conv.{short_conv}"
        yield f"{stages}.shortcut.{conv}", f"{ours}.short.{short_conv}"
    for part in ("encoder", "decoder"):
        for i, half in enumerate(("conv", "norm")):
            yield f"model.{part}_input_proj.#.{i}", f"{part}.input_proj.#.{half}"
        layers = {"encoder": "encoder.encoder.#.layers.#", "decoder": "decoder.layers.#"}[part]
        layer = {"encoder": "encoder.encoder.#.layers.#", "decoder": "decoder.decoder.layers.#"}[part]
        for i in (1, 2):
            yield f"model.{layers}.fc{i}", f"{layer}.linear{i}"
        yield f"model.{layers}.self_attn_layer_norm", f"{layer}.norm1"
        yield f"model.{layers}.final_layer_norm", f"{layer}.norm{2 if part == 'encoder' else 3}"
    yield "model.decoder.layers.#.encoder_attn_layer_norm", "decoder.decoder.layers.#.norm2"
    yield "model.decoder.layers.#.encoder_attn.n_points_scale", "decoder.decoder.layers.#.cross_attn.num_points_scale"
    yield "model.decoder.layers.#.encoder_attn", "decoder.decoder.layers.#.cross_attn"
    yield "model.decoder.layers", "decoder.decoder.layers"
    yield "model.decoder.class_embed", "decoder.dec_score_head"
    yield "model.decoder.bbox_embed", "decoder.dec_bbox_head"
    for i, half in enumerate(("proj", "norm")):
        yield f"model.enc_output.{i}", f"decoder.enc_output.{half}"
    for name in ("enc_output", "enc_score_head", "enc_bbox_head", "denoising_class_embed"):
        yield f"model.{name}", f"decoder.{name}"
    yield "model.encoder", "encoder"
    yield "model.decoder", "decoder"


def _rules(pairs: list[tuple[str, str]]) -> list[tuple[re.Pattern, str]]:
    """Patterns and replacements, the longest first: it says the most."""
    rules = []
    for source, target in sorted(pairs, key=lambda pair: -len(pair[0])):
        number = iter(range(1, 9))
        replacement = re.sub("#", lambda _: rf"\g<{next(number)}>", target)
        rules.append((re.compile(re.escape(source).replace(r"\#", r"(\d+)") + r"(?=\.|$)"), replacement))
    return rules


TO_OURS = _rules(list(_templates()))
TO_THEIRS = _rules([(ours, theirs) for theirs, ours in _templates()])


def _renamed(name: str, rules: list[tuple[re.Pattern, str]]) -> str:
    for pattern, replacement in rules:
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    return name


def is_theirs(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has the names of their detectors."""
    return any(name.startswith("model.encoder_input_proj.") for name in state)


def to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict under our names; a name that is not known stays as it is, for the caller to refuse."""
    ours, thirds = {}, {}
    for name, value in state.items():
        for pattern, replacement in NEWER:
            name = re.sub(pattern, replacement, name)
        ours[_renamed(name, TO_OURS)] = value
        if found := THREE.fullmatch(name):
            fused = _renamed(f"{found[1]}in_proj_{found[3]}", TO_OURS)
            thirds.setdefault(fused, {})[found[2]] = _renamed(name, TO_OURS)
    for name, parts in thirds.items():
        if len(parts) == 3 and len({ours[part].shape for part in parts.values()}) == 1 and ours[parts["q"]].ndim:
            ours[name] = torch.cat([ours.pop(parts[p]) for p in "qkv"])
    return ours


def to_theirs(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under their names, without what they keep in the image processor."""
    theirs = {}
    for name, value in state.items():
        if found := ONE.fullmatch(name):
            for part, third in zip("qkv", value.chunk(3), strict=True):
                theirs[_renamed(f"{found[1]}{part}_proj.{found[2]}", TO_THEIRS)] = third.contiguous()
        elif not name.startswith("pixel_"):
            theirs[_renamed(name, TO_THEIRS)] = value.contiguous()
    return theirs


def is_safetensors(path: str | Path) -> bool:
    """Whether to read ``path`` with `read_safetensors`: a file of that kind, or a folder with a ``config.json``."""
    path = Path(path)
    return path.suffix == ".safetensors" or (path / CONFIG).is_file()


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """Tensors as they are named in a ``.safetensors`` file, or in a folder's one or several, and the class names.

    The names are those of ``id2label`` in the ``config.json`` of the folder, or beside the file; None without.

    Raises:
        UserError: something is missing or damaged.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    state = {}
    for file in _shards(folder) if path.is_dir() else [path]:
        state |= _load(file)
    return state, _class_names(folder / CONFIG)


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        return [folder / SINGLE]
    names = _json(index).get("weight_map")
    files = sorted(set(names.values())) if isinstance(names, dict) and all(map(_is_text, names.values())) else []
    if not files or any(Path(name).name != name for name in files):
        raise UserError(str(index), "its weight_map does not name files of this folder", "download it again")
    return [folder / name for name in files]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _load(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise UserError(str(file), "there is no such file", f"give a .safetensors file, or a folder with {SINGLE}")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(str(file), f"is damaged or no safetensors file ({error})", "download it again") from error


def sampling_of(path: str | Path) -> str | None:
    """How the model of a folder, or of a file with its ``config.json`` beside it, reads a map; None without one."""
    path = Path(path)
    config = (path if path.is_dir() else path.parent) / CONFIG
    if not config.is_file():
        return None
    return "discrete" if _json(config).get("decoder_method") == "discrete" else "bilinear"


def _class_names(config: Path) -> list[str] | None:
    if not config.is_file():
        return None
    names = _json(config).get("id2label")
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))}:
        return None
    ordered = [names[str(i)] for i in range(len(names))]
    if not all(map(_is_text, ordered)):
        return None
    if any(map(CONTROL_CHARACTERS.search, ordered)):
        raise UserError(str(config), "has class names with control characters", "correct its id2label")
    return ordered


def _json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(str(file), "cannot be read as JSON", "download it again") from error
    if not isinstance(content, dict):
        raise UserError(str(file), "holds no JSON object", "download it again")
    return content
