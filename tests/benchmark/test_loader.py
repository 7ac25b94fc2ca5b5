"""The benchmark of loading: every loader has the same files, and the peers' samples are what their names say."""

import argparse
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from neo_model.benchmark import __main__ as command
from neo_model.benchmark import loader
from neo_model.benchmark.loader import add_arguments, find_files, run
from neo_model.benchmark.loader_peers import Albumentations, Torchvision
from neo_model.benchmark.measure import Timing
from neo_model.data.dataset import DetectionDataset


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
    assert [row.items for row in light.rows] == [3 if row.name == loader.DECODING else 2 for row in light.rows]
    assert light.ratio_to == [loader.PEER, loader.FAST_PEER] and rtdetr.ratio_to == [loader.PEER]


def test_the_ceiling_of_a_cache_reads_and_writes_the_pixels_of_the_batches(folder, monkeypatch):
    monkeypatch.setattr(loader, "interleaved", lambda candidates, **how: dict.fromkeys(candidates, Timing((1.0,))))
    options = {"photos": folder, "images": 4, "size": [128, 72], "batch": 2, "workers": 0}
    options |= {"cases": ["rtdetr"], "loader": ["process"], "rounds": 1, "warmup": 0, "frames": None}
    (table,) = run(argparse.Namespace(**options)).tables
    copied = next(row for row in table.rows if row.name == loader.COPYING)
    # The machine copies 2^28 bytes, read and written, in that one second; 4 images have 128 x 72 x 3.
    assert copied.figures[0] == pytest.approx(2**28 / (128 * 72 * 3))


@pytest.mark.parametrize(
    ("case", "size_wh", "decoded_wh"),
    [("light", (512, 384), (512, 384)), ("light", (72, 64), (128, 96)), ("rtdetr", (72, 64), (256, 192))],
)
def test_the_ceiling_decodes_no_more_of_a_file_than_ours(tmp_path, case, size_wh, decoded_wh, monkeypatch):
    """A crop of the full augmentation needs more of its file than the input's size."""
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.zeros((384, 512, 3), np.uint8))
    files, decoded = find_files(tmp_path, tmp_path / "annotations.json", least=1, most=1), []
    image = DetectionDataset.image

    def noted(*args):
        decoded.append(image(*args).shape[1::-1])

    monkeypatch.setattr(DetectionDataset, "image", noted)
    with ThreadPoolExecutor(1) as threads:
        loader.decoding(case, files, size_wh, threads)()
    assert decoded == [decoded_wh]


def test_threads_stand_beside_processes(folder):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = ["--frames", str(folder), "--size", "128", "72", "--batch", "2", "--cases", "light"]
    options = parser.parse_args([*arguments, "--loader", "process", "thread"])
    (table,) = run(argparse.Namespace(**vars(options), rounds=1, warmup=0)).tables
    in_threads = ["ours, data.loader=thread", "ours, data.loader=thread, data.cache=ram"]
    assert [row.name for row in table.rows][:4] == ["ours", "ours, data.cache=ram", *in_threads]


def test_fewer_images_than_a_batch_are_refused(folder, capsys):
    assert command.main(["loader", "--cases", "light", "--frames", str(folder), "--batch", "5"]) == 2
    remedy = "add files, raise --images, or lower --batch"
    assert capsys.readouterr().err == f"error: {folder}: 4 JPEG files make no batch of 5; {remedy}\n"


@pytest.mark.parametrize("make", [lambda size: Torchvision(size, "rtdetr"), Albumentations])
def test_a_peers_sample_is_float32_at_the_inputs_size(folder, tmp_path, make):
    files = find_files(folder, tmp_path / "annotations.json", least=1, most=4)
    torch.manual_seed(0)
    image, boxes = make((40, 20))(files.paths[0], files.boxes_xyxy[0])
    assert image.shape == (3, 20, 40) and image.dtype == torch.float32 and 0.1 < image.mean() < 0.9
    assert boxes.shape[1] == 4 and (boxes >= 0).all() and (boxes <= torch.tensor([40, 20, 40, 20])).all()
