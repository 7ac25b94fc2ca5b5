"""``file_name`` of annotations: only files below the image folder are ever opened."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from neo_model.data.coco import read_coco
from neo_model.data.image_files import check_images
from neo_model.utils import UserError

OUT, MISSING, NO_NAME = "leads out of the image folder", "images of", "file_name"
NAMES = {
    "parent": ("../outside.png", OUT),
    "parent of a folder": ("sub/../../outside.png", OUT),
    "parent of nothing": ("none/../../outside.png", OUT),
    "only parent": ("..", OUT),
    "absolute": ("ROOT/outside.png", OUT),
    "two slashes": ("//ROOT/outside.png", OUT),
    "device": ("/dev/zero", OUT),
    "process": ("/proc/self/environ", OUT),
    "link": ("link.png", OUT),
    "link to a folder": ("linked/outside.png", OUT),
    "link in a folder": ("sub/link.png", OUT),
    "link by links": ("chain.png", OUT),
    "link to nothing": ("dangling.png", OUT),
    "link in circles": ("circle.png", MISSING),
    "folder in circles": ("circle/a.png", MISSING),
    "NUL": ("inside.png\0.png", "holds control characters"),
    "NUL in a folder": ("sub\0/inside.png", "holds control characters"),
    "control sequence": ("\x1b[2Jinside.png", "holds control characters: '\\x1b[2Jinside.png'"),
    "clipboard": ("\x9d52;c;cm0gLXJm\x9c.png", "holds control characters"),
    "line": ("inside.png\nerror: all is well; go on", "holds control characters"),
    "backslashes": ("..\\outside.png", MISSING),
    "drive": ("C:\\outside.png", MISSING),
    "address": ("file://ROOT/outside.png", MISSING),
    "home": ("~/outside.png", MISSING),
    "variable": ("$PWD/../outside.png", OUT),
    "folder": ("sub", MISSING),
    "here": (".", MISSING),
    "pipe": ("pipe.png", MISSING),
    "long": ("x" * 300 + ".png", MISSING),
    "long folder": ("x" * 300 + "/a.png", MISSING),
    "deep": ("a/" * 3000 + "a.png", MISSING),
    "half a character": ("\ud800.png", NO_NAME),
    "dots of another script": ("\uff0e\uff0e/outside.png", MISSING),
    "empty": ("", NO_NAME),
    "number": (3, NO_NAME),
    "list": (["../outside.png"], NO_NAME),
}


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with one good image, links of all kinds and a pipe; outside.png lies beside it."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "outside.png", folder / "inside.png"):
        cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "sub" / "link.png").symlink_to("../../outside.png")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "chain.png").symlink_to("linked/outside.png")
    (folder / "dangling.png").symlink_to(tmp_path / "nothing.png")
    (folder / "circle").symlink_to("circle")
    (folder / "circle.png").symlink_to("circle.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def annotations(folder: Path, name: object) -> Path:
    path = folder.parent / "instances.json"
    image = {"id": 1, "file_name": name, "width": 8, "height": 8}
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "ball"}]}))
    return path


def test_the_folder_is_good_for_its_own_image(images):
    check_images(images, read_coco(annotations(images, "inside.png")))


@pytest.mark.parametrize("case", NAMES)
def test_a_file_name(refusal, images, case):
    name, said = NAMES[case]
    name = name.replace("ROOT", str(images.parent)) if isinstance(name, str) else name
    assert said in refusal(lambda: check_images(images, read_coco(annotations(images, name))))


@pytest.mark.parametrize("name", ["\x1b[2Jball", "ball\nerror: all is well; go on", "\x9d52;c;cm0gLXJm\x9c"])
def test_a_category_name_with_control_characters(refusal, images, name):
    path = annotations(images, "inside.png")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": [{"id": 1, "name": name}]}))
    assert "whose name has control characters: " in refusal(lambda: read_coco(path))


def test_an_error_shows_control_characters_and_does_not_send_them():
    said = str(UserError("a\x1b]0;x\x07.jpg", "is\x9b31m\nred", "look"))
    assert said == r"a\x1b]0;x\x07.jpg: is\x9b31m red; look" and said.isprintable()
