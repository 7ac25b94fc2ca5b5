"""The page of an evaluation: what it says, as numbers and in a browser."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from neo_model.evaluation import CocoEvaluator
from neo_model.evaluation.error_types import KINDS
from neo_model.reports import findings
from neo_model.reports.evaluation import EvaluatedImages, analyse, write_evaluation_report
from tests.reports.browser import CHROMIUM, ask

NAMES = ["ball", "</script><b>crate", "leaf & star"]
NUM_IMAGES, WIDTH, HEIGHT = 30, 160, 90



def ground_truth(random: np.random.Generator) -> dict:
    images = [{"id": 10 + i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(NUM_IMAGES)]
    annotations = []
    for image in images:
        for _ in range(random.integers(0, 5)):
            size = random.uniform(10, 60, 2)
            box = [*(random.random(2) * ((WIDTH, HEIGHT) - size)), *size]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image["id"], "category_id": int(random.integers(0, 3)),
                "bbox": box, "area": size.prod(), "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def detected(truth: dict, random: np.random.Generator, noise: float) -> CocoEvaluator:
    """Objects moved by ``noise`` of their size, a tenth of another class, and boxes on nothing."""
    evaluator = CocoEvaluator(truth, [0, 1, 2])
    for image in truth["images"]:
        own = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]]
        boxes = np.array([entry["bbox"] for entry in own] + [[5.0, 5.0, 12.0, 12.0]])
        boxes[:-1] += random.normal(0, noise, (len(own), 4)) * boxes[:-1, [2, 3, 2, 3]]
        boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:])
        labels = np.array([entry["category_id"] for entry in own] + [0])
        labels = np.where(random.random(len(labels)) < 0.1, (labels + 1) % 3, labels)
        evaluator.update(image["id"], boxes, random.uniform(0.1, 1, len(labels)) * [*[1] * len(own), 0.5], labels)
    return evaluator


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """The page of one evaluation, and the page that compares it with a better one."""
    folder, random = tmp_path_factory.mktemp("report"), np.random.default_rng(0)
    truth = ground_truth(random)
    paths = [folder / image["file_name"] for image in truth["images"]]
    for path in paths:
        cv2.imwrite(str(path), random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    sizes_wh = np.tile((WIDTH, HEIGHT), (NUM_IMAGES, 1))
    images = EvaluatedImages(ids=np.arange(NUM_IMAGES) + 10, paths=paths, sizes_wh=sizes_wh)
    analyses = {}
    for name, noise in (("rough", 0.15), ("fine", 0.02)):
        evaluator = detected(truth, np.random.default_rng(1), noise)
        analyses[name] = analyse(name, evaluator.compute(), evaluator.arrays(), sizes_wh)
    pages = {"alone": folder / "alone.html", "compared": folder / "compared.html"}
    facts = {"checkpoint": "best <of> all.pt"}
    common = {"title": "A detector", "facts": facts, "images": images, "own": analyses["rough"]}
    write_evaluation_report(pages["alone"], **common)
    write_evaluation_report(pages["compared"], **common, other=analyses["fine"])
    return pages


def content_of(page: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', page.read_text())[1])


def test_the_page_holds_the_figures_and_no_name_breaks_out_of_it(written):
    content, text = content_of(written["alone"]), written["alone"].read_text()
    assert content["class_names"] == NAMES
    assert NAMES[1] not in text and "best <of> all.pt" not in text and "best &lt;of&gt; all.pt" in text
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)
    assert [entry["key"] for entry in content["summary"]][:3] == ["AP", "AP50", "AP75"]
    rows = {row["class"]: row for row in content["classes"]}
    assert np.mean([row["AP"] for row in rows.values()]) == pytest.approx(content["summary"][0]["value"], abs=1e-4)
    matrix = np.array(content["confusion"])
    assert matrix[:-1].sum(axis=1).tolist() == [rows[name]["objects"] for name in NAMES]
    assert sum(entry["objects"] for entry in content["sizes"]) == sum(row["objects"] for row in rows.values())
    for kind, entry in zip(KINDS, content["errors"], strict=True):
        assert entry["count"] == sum(row[kind] for row in rows.values())
    assert {image["id"] for image in content["images"]} <= set(range(10, 10 + NUM_IMAGES))


def test_what_is_said_first_is_what_is_worth_saying():
    rows = [{"class": name, "objects": 20, "AP": ap, "label": name} for name, ap in (("cat", 0.5), ("dog", 0.2))]
    assert findings._classes(rows) == "The hardest class is dog (AP 0.200, 20 objects), the easiest cat (AP 0.500)."
    few = [row | {"objects": 3} for row in rows]
    assert findings._classes(few) is findings._sizes(few) is None
    assert findings._sizes([row | {"AP": 0.0} for row in rows]) is None
    errors = [{"kind": kind, "cost": cost, "meaning": "..."} for kind, cost in (("missed", 0.3), ("both", 0.0))]
    assert findings._costliest(errors).endswith("without them AP50 would be 0.300 higher.")
    assert findings._costliest(errors[1:] * 2) is None


def test_a_comparison_tells_the_difference_by_class_and_by_image(written):
    content = content_of(written["compared"])
    for row in content["classes"]:
        assert row["difference"] == pytest.approx(row["AP"] - row["other AP"], abs=2e-4) and row["difference"] < 0
    assert content["findings"][0].startswith("AP is 0.") and "from fine" in content["findings"][0]
    differences = content["image_differences"]
    assert differences and all(entry["difference"] != 0 for entry in differences)
    assert min(entry["difference"] for entry in differences) < 0
    lost = {image["id"] for image in content["images"] if image["f1"] < image["other_f1"]}
    assert lost


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("page", ["alone", "compared"])
def test_the_page_opens_sorts_and_filters(written, page):
    content = content_of(written[page])
    seen = ask(written[page], """
        const column = number => [...document.querySelectorAll(`#class-table tbody tr td:nth-child(${number})`)]
            .map(cell => cell.textContent);
        const head = number => document.querySelector(`#class-table th:nth-child(${number}) button`);
        head(1).click(); const names = column(1);
        head(3).click(); const most = column(3);
        head(3).click(); const fewest = column(3);
        const choose = (id, value) => { const node = byId(id); node.value = value; node.dispatchEvent(new Event("change")); };
        const shown = () => byId("gallery-count").textContent;
        const everything = shown();
        choose("gallery-kind", "background"); const background = selection.map(image => image.id);
        choose("gallery-class", "2"); const ofClass = selection.map(image => image.id);
        const nothing = byId("more").hidden;
        document.querySelector("#class-table tbody tr").click();
        return {names, most, fewest, everything, background, ofClass, curve: byId("curve-class").value,
            charts: document.querySelectorAll("#curves-overall path, #error-chart rect, #size-chart rect").length,
            pictures: [...document.querySelectorAll(".picture img")].length, boxes: document.querySelectorAll(".panel rect").length,
            bold: document.querySelectorAll("td b").length, canvas: document.querySelector("canvas").width};
    """)  # fmt: skip
    assert sorted(seen["names"]) == sorted(NAMES) and seen["bold"] == 0
    assert seen["most"] == seen["fewest"][::-1]
    assert [int(text) for text in seen["most"]] == sorted((row["objects"] for row in content["classes"]), reverse=True)
    total = len(content["images"])
    assert seen["everything"] == f"{total} of {total} images on this page"
    background = KINDS.index("background") + 1
    shown = {
        image["id"]: {box[4] for box in image["found"] if box[6] == background and box[5] >= content["threshold"]}
        for image in content["images"]
    }
    assert set(seen["background"]) == {image_id for image_id, classes in shown.items() if classes}
    assert set(seen["ofClass"]) == {image_id for image_id, classes in shown.items() if 2 in classes}
    assert seen["curve"] != "-1" and seen["charts"] > 10 and seen["pictures"] and seen["boxes"] and seen["canvas"]
