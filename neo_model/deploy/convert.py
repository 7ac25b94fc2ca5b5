"""Writes weights in the forms of other programs; ``python -m neo_model.deploy.convert --help`` says how."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from neo_model.deploy.predict import load_trained
from neo_model.models.hub import local_path
from neo_model.models.huggingface import CONFIG, SINGLE, to_theirs
from neo_model.models.huggingface_config import model_config, processor_config
from neo_model.models.rtdetr import RTDETR
from neo_model.models.weights import load_weights, names_of_classes, read_weights
from neo_model.utils import UserError

HELP = """\
Write a model's weights in the form of the official RT-DETR or of Hugging Face transformers.

usage: python -m neo_model.deploy.convert ckpt=FILE out=PATH [key=value ...]

  ckpt=FILE          a checkpoint of training, or with model= an official or Hugging Face file, or hub:NAME
  to=huggingface     a folder for from_pretrained of RTDetrForObjectDetection or RTDetrV2ForObjectDetection (default)
  to=official        a .pth file for the official code
  out=PATH           the folder or file to write; it must not exist
  model=rtdetr_r50   what a file other than ours holds

transformers takes sides that 32 divides and stretches images to them; preprocessor_config.json rounds up. Of a model
that evaluates before its last decoder layer (rtdetr_r50_m), the Hugging Face form has the layers up to that one.

examples:
  python -m neo_model.deploy.convert ckpt=best.pt out=my_detector
  python -m neo_model.deploy.convert ckpt=best.pt to=official out=my_detector.pth
"""

SETTINGS = {"ckpt": str, "to": Literal["huggingface", "official"], "out": str, "model": dict | None}
PUBLISHED_SIZE_WH = (640, 640)  # files other than ours say nothing of it
DECODER_LAYER = re.compile(r"decoder\.(?:decoder\.layers|dec_score_head|dec_bbox_head)\.(\d+)\.")
HALVES = {"conv": "0", "norm": "1"}
PROJECTION = re.compile(r"(encoder\.input_proj\.\d+)\.(conv|norm)\.")


def write_huggingface(model: RTDETR, folder: Path, *, class_names: list[str], size_wh: tuple[int, int]) -> None:
    """Write a folder that ``transformers.RTDetrForObjectDetection.from_pretrained``, or that of ``RTDetrV2...``, loads;
    whole or not at all.

    Args:
        model: with a ResNet-vd backbone.
        folder: does not exist yet.
        class_names: by label.
        size_wh: width and height of images in pixels, for the image processor.

    Raises:
        UserError: ``transformers`` has no such model, or the folder cannot be written.
    """
    config, unused = model_config(model, class_names), model.decoder.eval_layer + 1
    state = {name: value for name, value in model.state_dict().items() if not _is_behind(name, unused)}
    texts = {CONFIG: config, "preprocessor_config.json": processor_config(size_wh)}

    def write(temporary: Path) -> None:
        temporary.mkdir()
        save_file(to_theirs(state), temporary / SINGLE, metadata={"format": "pt"})
        for name, content in texts.items():
            (temporary / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    _write_whole(folder, write)


def write_official(model: RTDETR, file: Path) -> None:
    """Write a ``.pth`` for the official code: ``{"ema": {"module": ...}}`` under its names; whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    state = official_state(model)
    _write_whole(file, lambda temporary: torch.save({"ema": {"module": state}}, temporary))


def official_state(model: RTDETR) -> dict[str, Tensor]:
    """A model's state dict under the names of the published files; version 1 numbers halves of the encoder's projections.
    """
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("pixel_")}
    if model.version == 2:
        return state
    return {PROJECTION.sub(lambda found: f"{found[1]}.{HALVES[found[2]]}.", name): state[name] for name in state}


def _is_behind(name: str, num_layers: int) -> bool:
    found = DECODER_LAYER.match(name)
    return found is not None and int(found[1]) >= num_layers


def _write_whole(target: Path, write) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if target.exists():
        raise UserError(f"out={target}", "exists", "give another path, or remove it first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"out={target}", f"cannot be written ({error.strerror or error})", "make room") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _model_of(ckpt: str, node: dict | None) -> tuple[nn.Module, list[str], tuple[int, int]]:
    """The model of a weight file, its class names and the size of its images (width, height)."""
    if node is None:
        trained = load_trained(ckpt)
        return trained.model, trained.class_names, trained.size_wh
    from neo_model.config.build import build_model_from_config

    path = local_path(ckpt)
    file = read_weights(path)
    bias = file.state.get("decoder.enc_score_head.bias")
    if bias is None or bias.ndim != 1:
        raise UserError(f"ckpt={ckpt}", "holds no RT-DETR", "give an official, a Hugging Face or one of our own files")
    model = build_model_from_config(node, num_classes=len(bias))
    load_weights(model, path)
    names = names_of_classes(file.state, file.class_names) or [f"LABEL_{i}" for i in range(len(bias))]
    return model, names, PUBLISHED_SIZE_WH


def convert(*, ckpt: str, to: Literal["huggingface", "official"], out: str, model: dict | None = None) -> None:
    """What the command does, see ``HELP``; ``model`` is the node that a choice of conf/model composes to.

    Raises:
        UserError: the file cannot be read or has no such form, or the disk refuses.
    """
    detector, class_names, size_wh = _model_of(ckpt, model)
    if to == "official":
        write_official(detector, Path(out))
    else:
        write_huggingface(detector, Path(out), class_names=class_names, size_wh=size_wh)


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    # An entry point's need; the functions above do without Hydra.
    from neo_model.config.secrets import filter_warnings
    from neo_model.config.simple import read_settings

    filter_warnings()
    try:
        settings = read_settings("convert", arguments, SETTINGS)
        convert(**settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {settings['out']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
