"""Decoded images that are kept give the same samples, survive what may happen to them, and are refused where too big."""

import mmap
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from neo_model.data import dataset, image_cache
from neo_model.data.image_cache import ImageCache, num_bytes
from neo_model.data.image_files import load_image, reduction_for
from neo_model.utils import UserError

EVERYTHING = {"photometric": 0.5, "zoom_out": 0.5, "iou_crop": 0.8, "flip": 0.5, "color": 0.5}
# No image of the small data set is larger, so that each is kept as it is.
LARGE = {"width": 640, "height": 360}
# Some are larger, one of them twice in both directions.
SMALL = {"width": 160, "height": 90}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NEO_MODEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def epochs(make_data):
    """The batches of two epochs; ``between`` is called after the first."""

    def run(*, cache, augment=EVERYTHING, resolution=LARGE, workers=0, kind="process", between=lambda: None):
        data = make_data(augment, resolution, loader=kind, cache=cache)
        loader = data.train_loader(batch_size=2, workers=workers, prefetch=2, pin_memory=False, seed=0)
        try:
            first = list(loader.epoch(0))
            between()
            return first + list(loader.epoch(1))
        finally:
            loader.close()

    return run


def assert_same(first, second) -> None:
    for (images, targets), (other_images, other_targets) in zip(first, second, strict=True):
        assert torch.equal(images, other_images)
        for target, other in zip(targets, other_targets, strict=True):
            assert torch.equal(target["boxes"], other["boxes"]) and torch.equal(target["labels"], other["labels"])
            assert target["affine"] == other["affine"] and target["source_wh"] == other["source_wh"]


@pytest.mark.parametrize(("workers", "kind"), [(0, "process"), (2, "process"), (2, "thread")])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_each_file_is_read_once_and_the_samples_are_the_same(epochs, root, cache, workers, kind):
    decoded_each_time = epochs(cache=None)
    # Seven images make three batches: the one that is left out of the first epoch may come in the second.
    files = sorted((root / "images").iterdir())
    seen = {(entry["image_id"] - 5) // 10 for _, targets in decoded_each_time[:3] for entry in targets}

    def remove():
        for file in files:
            if int(file.stem) in seen:
                file.unlink()

    assert_same(epochs(cache=cache, workers=workers, kind=kind, between=remove), decoded_each_time)


def test_a_later_run_of_the_same_files_decodes_nothing(epochs, monkeypatch, caplog):
    first = epochs(cache="disk")
    monkeypatch.setattr(dataset, "load_image", lambda *args, **options: pytest.fail("an image was decoded again"))
    with caplog.at_level("INFO"):
        assert_same(epochs(cache="disk"), first)
    assert "7 decoded images" in caplog.text and "7 of them there already" in caplog.text


def test_a_file_that_was_written_again_is_decoded_again(epochs, root):
    first = epochs(cache="disk")
    for file in (root / "images").iterdir():
        height, width = cv2.imread(str(file)).shape[:2]
        cv2.imwrite(str(file), np.full((height, width, 3), 77, np.uint8))
        os.utime(file, (1, 1))
    second = epochs(cache="disk")
    assert_same(second, epochs(cache=None))
    assert not torch.equal(first[0][0], second[0][0])


def test_what_a_killed_run_left_of_an_image_is_not_taken_for_it(epochs, cache_folder):
    first = epochs(cache="disk")
    (file,) = cache_folder.iterdir()
    content = np.memmap(file, np.uint8, mode="r+")
    content[0:7] = 0  # no image is said to be there
    content[mmap.PAGESIZE :] = 99
    content.flush()
    del content
    assert_same(epochs(cache="disk"), first)


@pytest.mark.parametrize("cache", [None, "ram", "disk"])
def test_larger_images_are_kept_at_the_size_that_training_needs(make_data, cache):
    """Image 5 is 320x180 for an input of 160x90: it is decoded to half of each side, its boxes go where they went."""
    data = make_data({"flip": 0.001}, SMALL, cache=cache)
    training, whole = data.train_dataset(), data.val_dataset()
    request = dataset.SampleRequest(5, 160, 90, seed=0)
    for _ in range(2):  # decoded, and as it was kept
        image, target = training[request]
        expected_image, expected = whole[5]
        assert image.shape == expected_image.shape == (3, 90, 160)
        assert (image.float() - expected_image.float()).abs().mean() < 2
        assert torch.equal(target["boxes"], expected["boxes"])
        assert target["affine"] == expected["affine"] and target["source_wh"] == (320, 180)


@pytest.mark.parametrize("resolution", [SMALL, SMALL | {"train_sizes": [[160, 90], [192, 108], [128, 72]]}])
def test_boxes_of_images_that_are_kept_smaller_come_back_to_the_file(epochs, make_data, resolution):
    instances = make_data(None, SMALL).val_dataset().instances
    annotated = {int(image): instances.objects(index)[0] for index, image in enumerate(instances.image_ids)}
    checked = 0
    for images, targets in epochs(cache="ram", augment={"zoom_out": 1.0, "flip": 0.5}, resolution=resolution):
        height, width = images.shape[2:]
        for target in targets:
            centre, side = target["boxes"][:, :2], target["boxes"][:, 2:]
            boxes_xyxy = torch.cat([centre - side / 2, centre + side / 2], dim=1) * torch.tensor([width, height] * 2)
            back = target["affine"].invert(boxes_xyxy)
            expected = torch.from_numpy(annotated[target["image_id"]])
            if len(back) == len(expected):
                torch.testing.assert_close(back.double(), expected.double(), atol=0.01, rtol=0)
                checked += len(back)
    assert checked > 6


def test_evaluation_decodes_everything_in_full(make_data, monkeypatch):
    reductions = []

    def watched(path, size_wh, *, reduction=1):
        reductions.append(reduction)
        return load_image(path, size_wh, reduction=reduction)

    monkeypatch.setattr(dataset, "load_image", watched)
    make_data(EVERYTHING, SMALL, cache="ram").val_dataset()[5]
    assert reductions == [1]


def test_a_crop_may_need_every_pixel(make_data, monkeypatch):
    reductions = []
    monkeypatch.setattr(
        dataset, "load_image", lambda path, size_wh, reduction: reductions.append(reduction) or load_image(path, size_wh)
    )
    cropping = make_data({"iou_crop": 0.1}, SMALL).train_dataset()
    for strong in (True, False):
        cropping[dataset.SampleRequest(5, 160, 90, seed=0, strong=strong)]
    assert reductions == [1, 2]


@pytest.mark.parametrize(
    ("source_wh", "needed_wh", "factor"),
    [
        ((1920, 1080), (960, 540), 2),
        ((1920, 1080), (961, 540), 1),
        ((1920, 1080), (480, 270), 4),
        ((1920, 1080), (100, 50), 8),
        ((1924, 1082), (100, 50), 2),
        ((1921, 1080), (100, 50), 1),
    ],
)
def test_images_are_reduced_as_far_as_both_sides_allow(source_wh, needed_wh, factor):
    assert reduction_for(source_wh, needed_wh) == factor


def test_too_little_memory_or_disk_is_said_before_training(make_data, monkeypatch):
    monkeypatch.setattr(image_cache, "available_memory", lambda: 100_000)
    with pytest.raises(UserError, match=r"data.cache=ram: 7 decoded images take .* GB; .* use data.cache=disk"):
        make_data(None, LARGE, cache="ram").train_dataset()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 5000))
    with pytest.raises(UserError, match=r"data.cache=disk: 7 decoded .* are free in .*NEO_MODEL_CACHE"):
        make_data(None, LARGE, cache="disk").train_dataset()


HOLD = "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"


def test_an_interrupted_run_leaves_no_unfinished_file_and_the_next_removes_a_killed_ones(
    make_data, cache_folder, monkeypatch
):
    cache_folder.mkdir(parents=True)
    of_a_killed, of_another = cache_folder / ".unfinished-a", cache_folder / ".unfinished-b"
    of_a_killed.write_bytes(b"a")
    of_another.write_bytes(b"b")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, of_another], **pipes) as other:
        other.stdout.readline()

        def interrupt(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", interrupt)
            with pytest.raises(KeyboardInterrupt):
                make_data(None, LARGE, cache="disk").train_dataset()
        assert list(cache_folder.iterdir()) == [of_another]
        make_data(None, LARGE, cache="disk").train_dataset()
        assert of_another.exists() and len(list(cache_folder.glob("*.rgb"))) == 1
        other.stdin.write(b"\n")


def test_a_folder_that_cannot_be_made_is_named(make_data, cache_folder):
    cache_folder.parent.write_text("a file in the way")
    with pytest.raises(UserError, match="cannot be made .*; make room, or set NEO_MODEL_CACHE"):
        make_data(None, LARGE, cache="disk").train_dataset()


def test_a_disk_that_fails_ends_in_one_line_and_the_image_is_not_there():
    class Failing(mmap.mmap):
        def flush(self, *args):
            raise OSError(5, "Input/output error")

    sizes_wh = np.array([[8, 4]])
    cache = ImageCache(sizes_wh, Failing(-1, num_bytes(sizes_wh)), on_disk=True)
    with pytest.raises(UserError, match="data.cache: decoded images cannot be written .*Input/output error"):
        cache.put(0, np.zeros((4, 8, 3), np.uint8))
    assert cache.get(0) is None
