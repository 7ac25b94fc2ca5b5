import numpy as np
import pytest
from PIL import Image

from neo_model.data.coco import read_coco
from neo_model.data.image_files import check_images, load_image
from neo_model.utils import UserError
from tests.data.conftest import SIZE, instances_named

def test_a_complete_folder_passes(root):
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


def test_the_image_folder_itself_may_be_a_link(root):
    (root / "linked").symlink_to(root / "images")
    check_images(root / "linked", read_coco(root / "instances_train.json"))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp"])
def test_channels_come_as_red_green_blue(tmp_path, picture, name):
    Image.fromarray(picture).save(tmp_path / name, **({"quality": 98, "subsampling": 0} if name == "a.jpg" else {}))
    np.testing.assert_allclose(load_image(tmp_path / name, SIZE), picture, atol=6)


BROKEN = [b"", b"<html>404</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]


@pytest.mark.parametrize("content", BROKEN)
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match="a.jpg"):
        load_image(tmp_path / "a.jpg", SIZE)
