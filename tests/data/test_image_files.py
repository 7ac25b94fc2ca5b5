import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from neo_model.data.coco import read_coco
from neo_model.data.image_files import check_images, load_image
from neo_model.utils import UserError
from tests.data.conftest import small_instances, write_json

SIZE = (48, 32)


@pytest.fixture
def picture():
    """RGB uint8 [32, 48, 3]: left half (200, 40, 90), right half (10, 220, 60)."""
    picture = np.empty((32, 48, 3), np.uint8)
    picture[:, :24], picture[:, 24:] = (200, 40, 90), (10, 220, 60)
    return picture


def instances_named(root, name):
    content = small_instances()
    content["images"][0]["file_name"] = name
    return read_coco(write_json(root / "renamed.json", content))


def test_a_complete_folder_passes(root):
    check_images(root / "images", read_coco(root / "instances_train.json"))


def test_missing_images_are_counted_and_five_named(root):
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"7 of 7 images .* missing: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, \.\.\.;"):
        check_images(root / "images", read_coco(root / "instances_train.json"))


def test_a_missing_folder(root):
    with pytest.raises(UserError, match="image folder is missing"):
        check_images(root / "pictures", read_coco(root / "instances_train.json"))


def test_images_in_subfolders(root):
    (root / "images" / "a" / "b").mkdir(parents=True)
    (root / "images" / "0.jpg").rename(root / "images" / "a" / "b" / "0.jpg")
    check_images(root / "images", instances_named(root, "a/b/0.jpg"))
    with pytest.raises(UserError, match=r"1 of 7 images .* missing: a/c/0.jpg"):
        check_images(root / "images", instances_named(root, "a/c/0.jpg"))


@pytest.mark.parametrize("name", ["../images/0.jpg", "/etc/hostname", "a/../../x.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(root, name):
    with pytest.raises(UserError, match="leads out of the image folder"):
        check_images(root / "images", instances_named(root, name))


def test_links_out_of_the_folder_are_refused_and_links_inside_are_fine(root):
    (root / "outside").mkdir()
    (root / "images" / "0.jpg").rename(root / "outside" / "0.jpg")
    (root / "images" / "file.jpg").symlink_to(root / "outside" / "0.jpg")
    (root / "images" / "folder").symlink_to(root / "outside")
    (root / "images" / "inside.jpg").symlink_to(root / "images" / "1.jpg")
    for name in ("file.jpg", "folder/0.jpg"):
        with pytest.raises(UserError, match="leads out of the image folder"):
            check_images(root / "images", instances_named(root, name))
    check_images(root / "images", instances_named(root, "inside.jpg"))


def test_the_image_folder_itself_may_be_a_link(root):
    (root / "linked").symlink_to(root / "images")
    check_images(root / "linked", read_coco(root / "instances_train.json"))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp"])
def test_channels_come_as_red_green_blue(tmp_path, picture, name):
    Image.fromarray(picture).save(tmp_path / name, **({"quality": 98, "subsampling": 0} if name == "a.jpg" else {}))
    np.testing.assert_allclose(load_image(tmp_path / name, SIZE), picture, atol=6)


def test_grey_palette_transparent_cmyk_and_16_bit_files_become_rgb_bytes(tmp_path, picture):
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


def test_another_size_than_annotated_is_refused_with_both(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: is 48x32, its annotation says 50x32"):
        load_image(tmp_path / "a.png", (50, 32))


def test_exif_orientation_is_not_applied_and_explains_a_turned_size(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg", SIZE).shape == (32, 48, 3)
    with pytest.raises(UserError, match="48x32, its annotation says 32x48 .*EXIF"):
        load_image(tmp_path / "a.jpg", (32, 48))


def png_that_claims(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


BROKEN = [b"", b"<html>404</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", png_that_claims(60000, 60000)]


@pytest.mark.parametrize("content", BROKEN)
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match="a.jpg"):
        load_image(tmp_path / "a.jpg", SIZE)


def test_a_vanished_image_and_a_folder_are_named(tmp_path):
    (tmp_path / "b.jpg").mkdir()
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(UserError, match=name):
            load_image(tmp_path / name, SIZE)
