"""The benchmark of loading: every loader has the same files, and the peers' samples are what their names say."""

import argparse

import cv2
import numpy as np
import pytest
import torch

from neo_model.benchmark.loader import add_arguments, find_files, run
from neo_model.benchmark.loader_peers import Albumentations, Torchvision
from neo_model.utils import UserError


@pytest.fixture
def folder(tmp_path):
    """Four JPEGs of 64x48."""
    images = tmp_path / "photos"
    images.mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 255, (6, 8, 3), np.uint8)
        cv2.imwrite(str(images / f"{index}.jpg"), cv2.resize(pixels, (64, 48)))
    return images


def test_a_table_a_case_with_every_loader(folder):
    options = {"frames": folder, "photos": folder, "images": 3, "size": [128, 72], "batch": 2, "workers": 0}
    options |= {"cases": ["light", "rtdetr"], "loader": ["process"], "rounds": 1, "warmup": 0}
    light, rtdetr = run(argparse.Namespace(**options)).tables
    assert "3 of 64x48 to 128x72" in light.title and len(light.rows) > len(rtdetr.rows) > 2
    assert [row.items for row in light.rows] == [3 if "ceiling" in row.name else 2 for row in light.rows]


def test_threads_stand_beside_processes(folder):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = ["--frames", str(folder), "--size", "128", "72", "--batch", "2", "--cases", "light"]
    options = parser.parse_args([*arguments, "--loader", "process", "thread"])
    (table,) = run(argparse.Namespace(**vars(options), rounds=1, warmup=0)).tables
    in_threads = ["ours, data.loader=thread", "ours, data.loader=thread, data.cache=ram"]
    assert [row.name for row in table.rows][:4] == ["ours", "ours, data.cache=ram", *in_threads]


def test_a_folder_without_jpegs_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no JPEG"):
        find_files(tmp_path, tmp_path / "annotations.json", 4)


@pytest.mark.parametrize("make", [lambda size: Torchvision(size, "rtdetr"), Albumentations])
def test_a_peers_sample_is_float32_at_the_inputs_size(folder, tmp_path, make):
    files = find_files(folder, tmp_path / "annotations.json", 4)
    torch.manual_seed(0)
    image, boxes = make((40, 20))(files.paths[0], files.boxes_xyxy[0])
    assert image.shape == (3, 20, 40) and image.dtype == torch.float32 and 0.1 < image.mean() < 0.9
    assert boxes.shape[1] == 4 and (boxes >= 0).all() and (boxes <= torch.tensor([40, 20, 40, 20])).all()
