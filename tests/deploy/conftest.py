"""A run's leftovers: images of several shapes with annotations, and checkpoints whose detections differ in score."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from neo_model.config import compose_training
from neo_model.config.build import build_model_from_config
from neo_model.engine.checkpoint import write_checkpoint

SIZES = [(320, 180), (128, 96), (90, 160), (161, 91)]
CLASSES = {"names": ["person", "tram"], "category_ids": [3, 7]}


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A folder for data=custom: four images, one box each."""
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for index, (width, height) in enumerate(SIZES):
        blocks = generator.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
        cv2.imwrite(str(root / "images" / f"{index}.png"), cv2.resize(blocks, (width, height)))
        images.append({"id": index + 1, "file_name": f"{index}.png", "width": width, "height": height})
        box = {"id": index + 1, "image_id": index + 1, "category_id": 3, "bbox": [10, 10, 40, 30], "area": 1200}
        annotations.append(box | {"iscrowd": 0})
    categories = [{"id": i, "name": n} for i, n in zip(CLASSES["category_ids"], CLASSES["names"], strict=True)]
    content = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    for split in ("train", "val"):
        (root / f"instances_{split}.json").write_text(content)
    return root


@pytest.fixture(scope="session")
def image_paths(root) -> list[Path]:
    return sorted((root / "images").iterdir())


@pytest.fixture
def make_checkpoint(root, tmp_path):
    """Writes a checkpoint for ``root`` at 160x96; overrides change its configuration, keywords its content."""

    def make(*overrides: str, **content) -> Path:
        size = ["data.resolution.any_aspect=true", "data.resolution.width=160", "data.resolution.height=96"]
        config = compose_training(["data=custom", f"data.root={root}", "model=tiny", "hardware=cpu", *size, *overrides])
        torch.manual_seed(0)
        resolved = OmegaConf.to_container(config.model, resolve=True)
        model = spread(build_model_from_config(resolved, num_classes=len(CLASSES["names"])))
        path = tmp_path / "checkpoint.pt"
        plain = OmegaConf.to_container(config, resolve=False)
        filled = {"config": plain, "classes": CLASSES, "model": model.state_dict(), "ema": None}
        write_checkpoint(path, filled | content)
        return path

    return make


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Random heads instead of fresh ones, so that scores fill 0..1 and boxes leave their anchors."""
    decoder = model.decoder
    for head in (decoder.enc_score_head, *decoder.dec_score_head):
        torch.nn.init.normal_(head.weight, std=0.2)
        torch.nn.init.zeros_(head.bias)
    for head in (decoder.enc_bbox_head, *decoder.dec_bbox_head):
        torch.nn.init.normal_(head.layers[-1].weight, std=0.1)
    return model
