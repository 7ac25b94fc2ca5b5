"""Rows 2 to 4 of the README's table of faults: damaged image files."""

import cv2
import numpy as np
import pytest
import torch

from neo_model.data import encoded_images
from neo_model.data.image_files import DamagedImage, decode, load_image
from neo_model.engine.checkpoint import read_checkpoint
from neo_model.utils import UserError
from tests.engine.test_runner import records
from tests.faults.test_configuration_rows import custom

TAIL = b"a camera's own notes"


def jpeg(width: int = 64, height: int = 48, **options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if options.get("progressive") else []
    return cv2.imencode(".jpg", noise, flags)[1].tobytes()


def png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


@pytest.mark.parametrize("progressive", [False, True])
def test_row_02_truncated_jpeg(tmp_path, progressive):
    whole, path = jpeg(progressive=progressive), tmp_path / "a.jpg"
    for cut in (4, 30, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedImage, match=r"a.jpg: is cut off .*; restore it, or take it out of the annotations"):
            load_image(path, (64, 48))
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))  # as a power cut leaves it
    with pytest.raises(DamagedImage, match="no end-of-image marker"):
        load_image(path, (64, 48))


def test_row_02_bytes_that_cameras_write_around_a_jpeg_do_no_harm(tmp_path):
    whole = jpeg()
    expected = decode_bytes(tmp_path, whole)
    segment = whole.index(b"\xff\xdb")
    thumbnail = b"\xff\xe1" + (len(whole) + 2).to_bytes(2, "big") + whole  # with an end marker of its own
    for odd in (whole + TAIL, whole + b"\0" * 4096, whole[:segment] + b"\xff" + whole[segment:]):
        np.testing.assert_array_equal(decode_bytes(tmp_path, odd), expected)
    with_thumbnail = whole[:2] + thumbnail + whole[2:]
    np.testing.assert_array_equal(decode_bytes(tmp_path, with_thumbnail), expected)
    with pytest.raises(DamagedImage, match="no end-of-image marker"):
        decode_bytes(tmp_path, with_thumbnail[:-40])


def decode_bytes(folder, content: bytes) -> np.ndarray:
    (folder / "a.jpg").write_bytes(content)
    return decode(folder / "a.jpg", remedy="mend it")


def test_row_03_bit_flipped_png(tmp_path):
    whole, generator = png(), np.random.default_rng(0)
    for position in generator.integers(8, len(whole) - 12, 40):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << generator.integers(8)
        (tmp_path / "a.png").write_bytes(flipped)
        with pytest.raises(DamagedImage, match=r"a.png: (is damaged \((wrong checksum|its chunks end)|has a broken head)"):
            load_image(tmp_path / "a.png", (64, 48))
    assert encoded_images.damage(whole) is None


BROKEN = {"is empty": b"", "is not an image": b"<!doctype html><title>404</title>"}


@pytest.mark.parametrize("cause", BROKEN)
def test_row_04_empty_file_and_html(tmp_path, cause):
    (tmp_path / "a.jpg").write_bytes(BROKEN[cause])
    with pytest.raises(DamagedImage, match=f"a.jpg: {cause}"):
        load_image(tmp_path / "a.jpg", (64, 48))


OPTIONS = {"batch_size": 2, "workers": 0, "prefetch": 2, "pin_memory": False}


def broken(root) -> None:
    (root / "images" / "3.jpg").write_bytes(b"")
    whole = (root / "images" / "1.jpg").read_bytes()
    (root / "images" / "1.jpg").write_bytes(whole[: len(whole) // 2])


def epochs(data, **options):
    """Image ids and pixels of three epochs, and the number of damaged images in the end."""
    loader = data.train_loader(**{**OPTIONS, "seed": 0, **options})
    batches = [batch for epoch in range(3) for batch in loader.epoch(epoch)]
    loader.close()
    ids = [[target["image_id"] for target in targets] for _, targets in batches]
    return ids, [images.clone() for images, _ in batches], loader.num_bad_images


@pytest.mark.parametrize(("workers", "kind"), [(1, "process"), (2, "process"), (2, "thread")])
def test_rows_02_to_04_are_replaced_alike_with_any_workers_and_counted(root, make_data, caplog, workers, kind):
    broken(root)
    augment = {"flip": 0.5, "zoom_out": 0.5}
    alone_ids, alone_images, num_bad = epochs(make_data(augment, max_bad_fraction=0.5))
    assert num_bad == 2 and not {15, 35} & set(sum(alone_ids, []))
    assert sorted(record.getMessage().split(": ", 1)[1] for record in caplog.records) == [
        "is cut off (it has no end-of-image marker); another image is trained on in its place",
        "is empty; another image is trained on in its place",
    ]
    ids, images, num_bad = epochs(make_data(augment, max_bad_fraction=0.5, loader=kind), workers=workers)
    assert ids == alone_ids and num_bad == 2
    assert all(map(torch.equal, images, alone_images))
    seeded, _, _ = epochs(make_data(augment, max_bad_fraction=0.5), seed=1)
    assert seeded != alone_ids


def test_rows_02_to_04_too_many_end_the_run(root, make_data):
    broken(root)
    with pytest.raises(UserError) as caught:
        epochs(make_data(max_bad_fraction=0.2))
    assert str(caught.value).startswith(
        "data.max_bad_fraction: 2 of 7 training images are damaged, more than the fraction 0.2: "
    )
    assert "1.jpg" in str(caught.value) and "3.jpg" in str(caught.value)
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DamagedImage, match="is empty"):
        epochs(make_data(max_bad_fraction=1.0))


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_02_to_04_an_evaluation_never_leaves_an_image_out(root, make_data, workers):
    broken(root)
    loader = make_data(max_bad_fraction=1.0).val_loader(**{**OPTIONS, "workers": workers})
    with pytest.raises(DamagedImage, match=r"1.jpg: is cut off .* marker\); restore it"):
        list(loader)


@pytest.mark.parametrize("overfit", [0, 2])
def test_rows_02_to_07_an_image_that_no_evaluation_can_use_is_found_before_there_is_a_run(refused, make_coco, overfit):
    folder = make_coco("mine", ["crate"])
    images, arguments = folder / "images", [*custom(folder), f"overfit={overfit}"]
    whole = (images / "1.png").read_bytes()
    restore = "restore it, or take it out of the"
    mend = "write the image again in that size, or correct the"
    for content, said in {
        whole[:-20]: f"of which each is cut off (it has no end chunk): 1.png; {restore}",
        b"<html>": f"of which each is not an image that can be read (JPEG, PNG, BMP, TIFF, WebP): 1.png; {restore}",
        png(): f"of another size than their annotation says: 1.png is 64x48, its annotation says 256x144; {mend}",
    }.items():
        (images / "1.png").write_bytes(content)
        said += " annotations (which a run that has begun needs unchanged)"
        assert refused("train", *arguments, "data.max_bad_fraction=1") == f"error: {images}: 1 files {said}\n"


@pytest.mark.slow
def test_rows_02_to_04_a_resumed_run_has_the_figures_of_an_unbroken_one(
    root, make_data, make_runner, scripted_ap, tmp_path, caplog
):
    broken(root)

    def run(folder: str, epochs: int, *, images: str = "images", resume: bool = False) -> dict[int, float]:
        """Damaged images by step."""
        scripted_ap(*range(9))
        folders = {"train_images": str(root / images), "val_images": str(root / images)}
        data = make_data(resolution={"width": 64, "height": 64, "any_aspect": True}, max_bad_fraction=0.3, **folders)
        options = {"limit_batches": 1, "hardware": {"batch_size": 4}, "run_dir": tmp_path / folder}
        runner = make_runner(epochs=epochs, data=data, **options)
        if resume:
            runner.restore()
        runner.run()
        return records(runner, "data/bad_images")

    for folder in ("straight", "parts"):
        (tmp_path / folder).mkdir()
    straight = run("straight", 2)
    assert straight == {1: 2.0, 2: 2.0}
    assert run("parts", 1) == {1: 2.0}
    caplog.clear()
    (root / "images").rename(root / "moved")
    assert run("parts", 2, images="moved", resume=True) == straight
    assert "another image" not in caplog.text  # they have been warned of
    saved = [read_checkpoint(tmp_path / folder / "checkpoints" / "last.pt") for folder in ("straight", "parts")]
    assert saved[0]["bad_images"] == saved[1]["bad_images"]
    del saved[1]["bad_images"]  # as a checkpoint of old
    torch.save(saved[1], tmp_path / "parts" / "checkpoints" / "last.pt")
    assert list(run("parts", 3, images="moved", resume=True)) == [1, 2, 3]


@pytest.mark.parametrize("made_whole", [False, True])
def test_rows_02_to_04_a_resumed_run_ends_at_as_many_damaged_images_less_those_made_whole(root, make_data, made_whole):
    images, mended = root / "images", (root / "images" / "3.jpg").read_bytes()
    broken(root)
    loader = make_data(max_bad_fraction=0.3).train_loader(**OPTIONS, seed=0)
    list(loader.epoch(0))
    met = loader.bad_images()
    assert sorted(met) == ["1.jpg", "3.jpg"]
    (images / "2.jpg").write_bytes(b"")
    if made_whole:
        (images / "3.jpg").write_bytes(mended)
    resumed = make_data(max_bad_fraction=0.3).train_loader(**OPTIONS, seed=0)
    resumed.restore_bad_images(met)
    if made_whole:
        list(resumed.epoch(1))  # 2 of 7 at the most
        assert "3.jpg" not in resumed.bad_images()
    else:
        with pytest.raises(UserError, match="3 of 7 training images are damaged, more than the fraction 0.3: "):
            list(resumed.epoch(1))
