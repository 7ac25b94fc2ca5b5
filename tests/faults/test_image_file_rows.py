"""Rows 1, 5 to 7 and 19 of the README's table of faults: which image files there are, and of what kind and size."""

import contextlib
import errno
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from neo_model.data.coco import read_coco
from neo_model.data.image_files import (
    DamagedImage,
    check_images,
    decode,
    examine_folder,
    inspect_image,
    load_image,
)
from neo_model.utils import UserError
from tests.data.conftest import SIZE, instances_named


def test_row_01_missing_images_are_counted_and_five_named(root):
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"7 of 7 images .* missing: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, \.\.\.;"):
        check_images(root / "images", read_coco(root / "instances_train.json"))


def test_row_01_an_image_that_cannot_be_read(tmp_path):
    (tmp_path / "b.jpg").mkdir()
    for name, reason in (("a.jpg", "No such file or directory"), ("b.jpg", "Is a directory")):
        with pytest.raises(UserError, match=f"{name}: image cannot be read .{reason}"):
            load_image(tmp_path / name, SIZE)


def test_row_01_images_without_permission_to_read_are_counted_and_five_named(root, monkeypatch):
    may_read = os.access  # root may read everything
    monkeypatch.setattr(os, "access", lambda path, mode: path.endswith("0.jpg") and may_read(path, mode))
    instances = read_coco(root / "instances_train.json")
    with pytest.raises(UserError) as error:
        check_images(root / "images", instances)
    assert str(error.value) == (
        f"{root}/images: 6 of 7 images of {instances.path} may not be read: 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg, ...; "
        "correct their permissions, or remove these images from the annotations "
        "(which a run that has begun needs unchanged)"
    )
    assert examine_folder(root / "images", instances)[1] == [0]


def test_row_01_a_folder_without_permission_to_read_is_an_error_of_one_line(root, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError) as error:
        check_images(root / "images", read_coco(root / "instances_train.json"))
    said = f"{root}/images: cannot be read (Permission denied); correct the permissions of it and of the folders above"
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("closed", ["images", "instances_val.json"])
def test_row_01_data_that_may_not_be_looked_at_are_an_error_of_one_line(root, monkeypatch, command, closed):
    look = Path.stat

    def look_or_refuse(path, **options):
        if path.name == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", look_or_refuse)
    outcome = command("train", "model=tiny", "data=custom", f"data.root={root}", "hardware=cpu")
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert f"error: {root}/{closed}: cannot be read (Permission denied); correct the permissions" in outcome.err


def test_row_01_an_image_on_a_defective_part_of_the_disk_is_a_damaged_one(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DamagedImage, match="a.jpg: image cannot be read .Input/output error.; restore it"):
        load_image(tmp_path / "a.jpg", SIZE)


def png_that_claims(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_row_05_a_forged_header_costs_no_memory(tmp_path):
    (tmp_path / "a.png").write_bytes(png_that_claims(60000, 60000))
    with pytest.raises(UserError, match="a.png: is 60000x60000, its annotation says 48x32"):
        load_image(tmp_path / "a.png", SIZE)


def jpeg_frame(width: int, height: int) -> bytes:
    return b"\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + bytes.fromhex("03012200021101031101")


JPEG_SCAN = bytes.fromhex("ffda000c03010002110311003f00")
# What a decoder passes over or gives up at, and in front of a forged header of the annotated size.
HIDING = {
    "a marker without a length": b"\xff\xd0" + jpeg_frame(60000, 60000),
    "another one": b"\xff\x01" + jpeg_frame(60000, 60000),
    "a second frame": jpeg_frame(60000, 60000),
    "an impossible length": b"\xff\xe5\0\0" + jpeg_frame(60000, 60000),
    "an end": b"\xff\xd9" + jpeg_frame(60000, 60000),
    "a second start": b"\xff\xd8" + jpeg_frame(60000, 60000),
}


@pytest.mark.parametrize("hiding", HIDING)
def test_row_05_a_second_header_does_not_hide_the_size_of_a_jpeg(tmp_path, monkeypatch, hiding):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("pixels were allocated"))
    start = b"\xff\xd8" + HIDING[hiding]
    (skipped,) = struct.unpack(">H", start[4:6])
    for filler in (b"", bytes(max(0, 4 + skipped - len(start)))):
        (tmp_path / "a.jpg").write_bytes(start + filler + jpeg_frame(*SIZE) + JPEG_SCAN + bytes(9) + b"\xff\xd9")
        for read in (load_image, inspect_image):
            with pytest.raises(UserError, match="is 60000x60000, its annotation says 48x32|is cut off within its header"):
                read(tmp_path / "a.jpg", SIZE)


def test_row_05_of_two_sizes_of_a_tiff_the_decoders_one_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("pixels were allocated"))
    sizes = [(256, 60000), (257, 60000), (256, SIZE[0]), (257, SIZE[1])]
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, side, 0) for tag, side in sizes)
    (tmp_path / "a.tif").write_bytes(b"MM\0*" + struct.pack(">IH", 8, len(sizes)) + entries)
    with pytest.raises(UserError, match="is 60000x60000, its annotation says 48x32"):
        load_image(tmp_path / "a.tif", SIZE)


RARER = {
    "bmp": ("BMP", {}),
    "tif": ("TIFF", {}),
    "lossy.webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "extended.webp": ("WEBP", {"exif": Image.Exif()}),
}


@pytest.mark.parametrize("kind", RARER)
def test_row_05_the_size_of_a_rarer_format_is_known_before_it_is_decoded(tmp_path, picture, monkeypatch, kind):
    path, (form, options) = tmp_path / f"a.{kind}", RARER[kind]
    if "exif" in options:
        options["exif"][0x010F] = "a camera"
    Image.fromarray(picture).save(path, form, **options)
    assert load_image(path, SIZE).shape == (32, 48, 3)
    whole = path.read_bytes()
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("pixels were allocated"))
    with pytest.raises(UserError, match=f"a.{kind}: is 48x32, its annotation says 60x32"):
        load_image(path, (60, 32))
    monkeypatch.undo()
    for cut in range(len(whole) if len(whole) < 400 else 60):
        path.write_bytes(whole[:cut])
        with contextlib.suppress(UserError):  # whatever else is made of it, no traceback
            load_image(path, SIZE)


FORGED = {
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 60000, -60000),
    "old.bmp": b"BM" + bytes(12) + struct.pack("<IHH", 12, 60000, 60000),
    "tif": b"MM\0*" + struct.pack(">IHHHIIHHIHH", 8, 2, 256, 4, 1, 60000, 257, 3, 1, 60000, 0),
    "webp": b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + (59999).to_bytes(3, "little") * 2,
}


@pytest.mark.parametrize("kind", FORGED)
def test_row_05_a_forged_header_of_a_rarer_format_costs_no_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("pixels were allocated"))
    (tmp_path / f"a.{kind}").write_bytes(FORGED[kind])
    with pytest.raises(UserError, match=f"a.{kind}: claims to be 60000x60000, more than 268,435,456 pixels; mend it"):
        decode(tmp_path / f"a.{kind}", remedy="mend it")


OTHERS = {
    "ppm": b"P6 30000 30000 255\n",
    "gif": b"GIF89a" + struct.pack("<HH", 60000, 60000) + bytes(3) + b";",
    "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 30000 +X 30000\n",
    "big.tif": b"MM\0+" + struct.pack(">HHQ", 8, 0, 16),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_row_05_a_format_whose_size_is_not_known_beforehand_is_not_decoded(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("pixels were allocated"))
    path = tmp_path / "a.jpg"  # what counts is the content
    path.write_bytes(OTHERS[kind])
    for read in (load_image, inspect_image):
        with pytest.raises(DamagedImage) as caught:
            read(path, (30000, 30000))
        said = f"{path}: is not an image that can be read (JPEG, PNG, BMP, TIFF, WebP); restore it"
        assert str(caught.value).startswith(said)


def test_row_06_grey_palette_transparent_cmyk_and_16_bit_files_become_rgb_bytes(tmp_path, picture):
    image = Image.fromarray(picture)
    image.convert("L").save(tmp_path / "grey.png")
    image.quantize(4).save(tmp_path / "palette.png")
    image.convert("RGBA").save(tmp_path / "transparent.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98, subsampling=0)
    cv2.imwrite(str(tmp_path / "deep.png"), picture[..., ::-1].astype(np.uint16) * 257)
    grey = np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=2)
    for name, expected in {
        "grey.png": grey,
        "palette.png": picture,
        "transparent.png": picture,
        "cmyk.jpg": picture,
        "deep.png": picture,
    }.items():
        decoded = load_image(tmp_path / name, SIZE)
        assert decoded.dtype == np.uint8
        np.testing.assert_allclose(decoded, expected, atol=6, err_msg=name)


def test_row_07_another_size_than_annotated_is_refused_with_both(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: is 48x32, its annotation says 50x32"):
        load_image(tmp_path / "a.png", (50, 32))


def exif_options(kind: str, orientation: int) -> dict:
    """For Pillow's ``save``."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"tiffinfo": {0x0112: orientation}} if kind == "tif" else {"exif": exif}


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_row_07_an_exif_orientation_is_refused_with_both_sizes(tmp_path, picture, kind, orientation):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(picture).save(path, **exif_options(kind, orientation))
    shown = "32x48" if orientation > 4 else "48x32"
    for size_wh in (SIZE, SIZE[::-1]):
        cause = f"stored as 48x32 and shown as {shown}, turned by its EXIF orientation {orientation}, its annotation "
        cause += f"says {size_wh[0]}x{size_wh[1]}, and its boxes may be drawn on either; write the image again"
        for read in (load_image, inspect_image):
            with pytest.raises(UserError, match=cause):
                read(path, size_wh)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_row_07_an_upright_exif_orientation_is_fine(tmp_path, picture, kind, orientation):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(picture).save(path, **exif_options(kind, orientation))
    inspect_image(path, SIZE)
    np.testing.assert_allclose(load_image(path, SIZE).mean(), picture.mean(), atol=3)


def test_row_07_an_exif_orientation_behind_the_pixels_of_a_png_is_found(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    whole = cv2.imencode(".png", noise)[1].tobytes()
    content = b"eXIfMM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 3, 0, 0)
    chunk = struct.pack(">I", len(content) - 4) + content + zlib.crc32(content).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(whole[:-12] + chunk + whole[-12:])
    for read in (load_image, inspect_image):
        with pytest.raises(UserError, match="300x200 and shown as 300x200, turned by its EXIF orientation 3"):
            read(tmp_path / "a.png", (300, 200))


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_row_07_a_broken_exif_part_is_no_reason_to_refuse(tmp_path, picture, kind):
    path = tmp_path / f"a.{kind}"
    options = exif_options(kind, 6)
    Image.fromarray(picture).save(path, **options)
    content = options["exif"].tobytes()[-20:]
    for wrong in (b"II*\0\xff\xff\xff\xff".ljust(20, b"\0"), bytes(20), b"\xff" * 20):
        whole = path.read_bytes()
        assert content in whole
        altered = whole.replace(content, wrong)
        if kind == "png":
            start = altered.index(b"eXIf")
            end = start + 4 + int.from_bytes(altered[start - 4 : start], "big")
            altered = altered[:end] + zlib.crc32(altered[start:end]).to_bytes(4, "big") + altered[end + 4 :]
        other = tmp_path / f"altered.{kind}"
        other.write_bytes(altered)
        inspect_image(other, SIZE)


@pytest.mark.parametrize("name", ["../images/0.jpg", "/etc/hostname", "a/../../x.jpg"])
def test_row_19_a_name_that_leads_out_of_the_folder_is_refused(root, name):
    with pytest.raises(UserError, match="leads out of the image folder"):
        check_images(root / "images", instances_named(root, name))


def test_row_19_links_out_of_the_folder_are_refused_and_links_inside_are_fine(root):
    (root / "outside").mkdir()
    (root / "images" / "0.jpg").rename(root / "outside" / "0.jpg")
    (root / "images" / "file.jpg").symlink_to(root / "outside" / "0.jpg")
    (root / "images" / "folder").symlink_to(root / "outside")
    (root / "images" / "inside.jpg").symlink_to(root / "images" / "1.jpg")
    for name in ("file.jpg", "folder/0.jpg"):
        with pytest.raises(UserError, match="leads out of the image folder"):
            check_images(root / "images", instances_named(root, name))
    check_images(root / "images", instances_named(root, "inside.jpg"))
