"""What a data set's page counts, and that it comes without a look at the images."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from neo_model.data.coco import read_coco
from neo_model.reports.dataset import dataset_findings, main
from neo_model.reports.dataset_statistics import split_statistics
from tests.reports.browser import CHROMIUM, ask

NAMES = ["cat", "dog <b>", "bird"]


@pytest.fixture
def root(tmp_path) -> Path:
    """Annotations of three images of 200x100 and 100x100, whose files are not there."""
    boxes = [
        (1, 1, [0, 0, 40, 40], 0), (1, 1, [160, 60, 40, 40], 0), (1, 2, [50, 40, 100, 20], 0),
        (2, 1, [40, 40, 20, 20], 0), (2, 2, [0, 0, 90, 90], 1),
    ]  # fmt: skip
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": width, "height": 100} for i, width in enumerate((200, 100, 100), 1)
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for i, (image, k, box, crowd) in enumerate(boxes, 1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)],
    }
    (tmp_path / "images").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(content))
    return tmp_path


def test_counts_and_sizes_are_those_of_the_input(root):
    instances = read_coco(root / "instances_train.json")
    found = split_statistics(instances, (320, 180), "letterbox")
    assert found.boxes.tolist() == [3, 1, 0] and found.images.tolist() == [2, 1, 0]
    assert found.objects_an_image.tolist() == [3, 1, 0]
    assert found.image_sizes == [((100, 100), 2), ((200, 100), 1)]
    # 200x100 grows by 1.6, the squares by 1.8.
    assert found.sizes.tolist() == pytest.approx([64, 64, 1.6 * np.sqrt(2000), 36])
    assert found.aspects.tolist() == [1, 1, 5, 1]
    assert found.places.sum() == 4 and found.places[18, 32] == 2 and found.places[7, 6] == found.places[28, 57] == 1
    assert found.small[640] == [0, 0, 0]
    stretched = split_statistics(instances, (40, 20), "stretch")
    assert stretched.sizes.tolist() == pytest.approx([8, 8, np.sqrt(20 * 4), np.sqrt(8 * 4)])
    assert stretched.small_parts() == [0.25, 1, 1]
    said = " ".join(dataset_findings(stretched, found, NAMES, "40x20"))
    assert "25.0% of the boxes are under 8 px" in said and "1920x" not in said
    assert "No box in training: bird." in said and "1 training images (33.3%) have no object" in said


@pytest.fixture
def written(root) -> Path:
    assert main(["data=custom", f"data.root={root}", "data/resolution=640x360", f"out={root}/out"]) == 0
    return root / "out" / "dataset.html"


def test_the_page_needs_no_image_and_says_why_it_shows_none(written, root, capsys):
    text = written.read_text()
    content = json.loads(re.search(r'id="content">(.*?)</script>', text)[1])
    assert [row["boxes"] for row in content["rows"]] == [3, 1, 0]
    assert "No samples are shown:" in content["findings"][-1] and "1.png" in content["findings"][-1]
    assert "dog <b>" not in text
    assert {path.name for path in written.parent.glob("*.png")} == {"classes.png", "sizes.png", "shapes.png", "images.png"}
    other = json.loads((root / "instances_val.json").read_text())
    other["categories"][0]["name"] = "cow"
    (root / "instances_val.json").write_text(json.dumps(other))
    assert main(["data=custom", f"data.root={root}"]) == 2 and "classes are not the 3" in capsys.readouterr().err
    assert main(["data=custom", f"data.root={root}", "samples=many"]) == 2
    assert "error: samples: 'many'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_opens_and_sorts(written):
    seen = ask(written, """
        document.querySelector("#class-table th button").click();
        return {names: [...document.querySelectorAll("#class-table tbody td:first-child")].map(cell => cell.textContent),
            pictures: [...document.images].map(image => image.naturalWidth)};
    """)  # fmt: skip
    assert seen["names"] == sorted(NAMES) and len(seen["pictures"]) == 4 and min(seen["pictures"]) > 500


@pytest.mark.slow
def test_samples_are_shown_before_and_after_augmentation(tmp_path):
    small = ["data.num_train=3", "data.num_val=2", "data.resolution.width=256", "data.resolution.height=144"]
    arguments = ["data=shapes", f"data.root={tmp_path}", *small, f"out={tmp_path}/out", "samples=2"]
    assert main(arguments) == 0
    assert "samples.png" not in (tmp_path / "out" / "dataset.html").read_text()  # it is inside
    assert (tmp_path / "out" / "samples.png").stat().st_size > 10_000
