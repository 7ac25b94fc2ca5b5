"""python eval.py: the figures that training logged, the files it writes, and overrides that count."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch
from omegaconf import OmegaConf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

from neo_model.config.compose import compose_node
from neo_model.engine.checkpoint import read_checkpoint, write_checkpoint
from neo_model.evaluation import SUMMARY_KEYS
from neo_model.testing.failing_disk import FailingDisk, Operation
from tests.config.conftest import folders_of_runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def evaluate(command, trained):
    """Evaluates the trained run's best.pt into the folder ``results`` and returns metrics and detections."""

    def run(*arguments: str, results: str = "results") -> tuple[dict, list[dict]]:
        best = trained / "checkpoints" / "best.pt"
        outcome = command("eval", f"ckpt={best}", f"hydra.run.dir={results}", *arguments)
        assert outcome.code == 0, outcome.err
        return tuple(json.loads(Path(results, name).read_text()) for name in ("metrics.json", "detections.json"))

    return run


def logged(run_dir: Path) -> dict:
    """The last evaluation that training logged."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "val/AP" in line][-1]


def test_eval_py_gives_what_training_logged(tmp_path, trained):
    ended = subprocess.run(
        [sys.executable, ROOT / "eval.py", f"ckpt={trained}/checkpoints/best.pt"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    (folder,) = tmp_path.glob("outputs/eval/*")
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "detections.json"}
    metrics, training = json.loads((folder / "metrics.json").read_text()), logged(trained)
    assert training["val/AP"] > 0.05
    for key in SUMMARY_KEYS:
        assert metrics[key] == pytest.approx(training[f"val/{key}"], abs=1e-6)
    assert [line.split()[0] for line in ended.stdout.splitlines()[2:14]] == list(SUMMARY_KEYS)
    assert all(f"\n{name} " in ended.stdout for name in metrics["per_class"])
    assert str(folder.relative_to(tmp_path)) in ended.stdout.splitlines()[-1]


def test_detections_are_coco_results(evaluate, trained, shapes_root):
    metrics, detections = evaluate()
    (annotations,) = shapes_root.glob("256x144-*/instances_train.json")
    truth = COCO(str(annotations))
    assert truth.loadRes(detections).anns
    assert len({detection["image_id"] for detection in detections}) == 2
    assert set(metrics) == {*SUMMARY_KEYS, "per_class"}
    assert set(metrics["per_class"]) == {category["name"] for category in truth.dataset["categories"]}
    assert sum(entry["boxes"] for entry in metrics["per_class"].values()) > 0


@pytest.mark.parametrize("fault", ["write .detections.json.*", "fsync .detections.json.*", "write .metrics.json.*"])
def test_an_evaluation_that_could_not_be_written_whole_is_not_taken_for_one(command, trained, monkeypatch, fault):
    best = f"ckpt={trained}/checkpoints/best.pt"
    with monkeypatch.context() as patch:
        FailingDisk(Path.cwd(), Operation(fault, 1), setattr=patch.setattr)
        error = command("eval", best, "hydra.run.dir=results").error
    name = re.search(r"(detections|metrics)\.json", fault)[0]
    assert error.startswith(f"error: results/{name}: cannot be written (Input/output error); make room")
    assert set(os.listdir("results")) <= {"detections.json"}
    assert "holds no evaluation" in command("eval", best, "compare=results", "report=true").error


def test_conf_threshold_drops_low_scores(evaluate):
    _, everything = evaluate(results="all")
    threshold = round(median(detection["score"] for detection in everything), 4)
    _, confident = evaluate(f"conf_threshold={threshold}", results="confident")
    expected = [detection for detection in everything if detection["score"] >= threshold]
    assert 0 < len(expected) < len(everything)
    assert confident == expected


def test_nms_threshold_leaves_no_two_boxes_of_a_class_overlapping(evaluate):
    def largest_overlap(detections: list[dict]) -> float:
        groups: dict[tuple, list] = {}
        for detection in detections:
            x, y, width, height = detection["bbox"]
            key = (detection["image_id"], detection["category_id"])
            groups.setdefault(key, []).append([x, y, x + width, y + height])
        ious = [box_iou(boxes, boxes).fill_diagonal_(0.0) for boxes in map(torch.tensor, groups.values())]
        return max(iou.max().item() for iou in ious)

    assert largest_overlap(evaluate("conf_threshold=0", results="all")[1]) > 0.5
    suppressed = evaluate("conf_threshold=0", "nms_threshold=0.3", results="suppressed")[1]
    assert 0 < largest_overlap(suppressed) < 0.31  # boxes in the file are rounded


def test_pycocotools_gives_the_same_figures_when_asked(evaluate, monkeypatch):
    calls = []
    accumulate = COCOeval.accumulate
    monkeypatch.setattr(COCOeval, "accumulate", lambda self: calls.append(self) or accumulate(self))
    metrics, found = evaluate(results="fast")
    assert not calls
    reference, same = evaluate("evaluation.backend=pycocotools", results="reference")
    assert len(calls) == 1 and same == found
    assert [reference[key] for key in SUMMARY_KEYS] == pytest.approx([metrics[key] for key in SUMMARY_KEYS], abs=1e-9)
    assert reference["per_class"].keys() == metrics["per_class"].keys()


def test_other_pictures_and_another_resolution(evaluate, shapes_root):
    (own,) = shapes_root.glob("256x144-*")
    custom = [
        "data=custom", f"data.root={own}", f"data.train_images={own}/none", f"data.train_annotations={own}/none.json",
        f"data.val_images={own}/val", "overfit=0",
    ]  # fmt: skip
    metrics, found = evaluate(*custom, results="custom")
    assert {detection["image_id"] for detection in found} <= set(range(1, 5))
    assert sum(entry["images"] for entry in metrics["per_class"].values()) >= 4
    _, larger = evaluate(*custom, "data/resolution=640x360", results="larger")
    _, same = evaluate(*custom, results="same")
    assert found == same
    assert found != larger


def test_the_configuration_to_evaluate_with_is_printed(command, trained, tmp_path):
    best = f"ckpt={trained}/checkpoints/best.pt"
    outcome = command("eval", best, "data/resolution=640x360", "conf_threshold=0.3", "debug=true", "--cfg", "job")
    assert outcome.code == 0, outcome.err
    printed = OmegaConf.create(outcome.out)
    assert (printed.data.resolution.width, printed.optim.lr, printed.overfit) == (640, 2e-3, 2)
    assert (printed.conf_threshold, printed.report, printed.debug) == (0.3, False, True)
    assert not folders_of_runs(tmp_path)
    assert "optim.lr=1: changes the checkpoint's configuration" in command("eval", best, "optim.lr=1", "--info").error


def test_what_only_trains_is_not_built(command, trained, monkeypatch):
    """W&B may not be set up where a run is evaluated, and a transform to be tried may take all memory."""
    checkpoint = read_checkpoint(trained / "checkpoints" / "best.pt")
    config = checkpoint["config"]
    config["logger"] = compose_node("logger", "wandb")
    config["data"]["augment"]["extra"] = {"PadIfNeeded": {"min_height": 60000, "min_width": 60000}}
    write_checkpoint(Path("best.pt"), checkpoint)
    monkeypatch.setattr("neo_model.data.augmenter._tried", lambda *_: pytest.fail("it is tried"))
    monkeypatch.setenv("WANDB_MODE", "foo")
    outcome = command("eval", "ckpt=best.pt", "hydra.run.dir=results", "report=true", "compare=best.pt")
    assert outcome.code == 0 and Path("results/report.html").exists(), outcome.err
    config["logger"]["wandb"]["project"] = 3
    write_checkpoint(Path("best.pt"), checkpoint)
    assert "logger.wandb.project" in command("eval", "ckpt=best.pt").error


def test_limit_batches_evaluates_a_part(evaluate):
    _, detections = evaluate("limit_batches=1")
    assert len({detection["image_id"] for detection in detections}) == 1


def test_a_report_that_compares_with_the_same_finds_no_difference(evaluate, trained):
    evaluate(results="before")
    evaluate("report=true", "compare=before", results="after")
    page = Path("after/report.html").read_text()
    content = json.loads(re.search(r'id="content">(.*?)</script>', page)[1])
    assert all(figure["value"] == figure["other"] for figure in content["summary"])
    assert {row["difference"] for row in content["classes"] if row["AP"] is not None} == {0.0}
    assert content["image_differences"] == [] and len(content["images"]) == 2
    evaluate("report=true", f"compare={trained}", results="run")
    assert Path("run/report.html").read_text().count('"difference":0.0') == page.count('"difference":0.0') > 0


def test_what_cannot_be_compared_is_one_line(evaluate, command, trained, close):
    best = f"ckpt={trained}/checkpoints/best.pt"
    assert "compare: is told of in the report; add report=true" in command("eval", best, "compare=x").error
    assert "compare=x: does not exist" in command("eval", best, "compare=x", "report=true").error
    Path("empty").mkdir()
    assert "holds no evaluation" in command("eval", best, "compare=empty", "report=true").error
    close("closed")
    error = command("eval", best, "compare=closed", "report=true").error
    assert error.startswith("error: closed/metrics.json: cannot be read (Permission denied)")
    metrics, detections = evaluate(results="other")
    for name, content, said in (
        ("metrics.json", {"per_class": {"cat": {}}}, "has 1 classes, this evaluation 5"),
        ("metrics.json", [], 'has no "per_class"'),
        ("detections.json", [{"image_id": 1}], 'detection at position 0 has no "category_id"'),
        ("detections.json", {}, "is no list of detections"),
    ):
        for file, value in (("metrics.json", metrics), ("detections.json", detections), (name, content)):
            Path("other", file).write_text(json.dumps(value))
        assert said in command("eval", best, "compare=other", "report=true", "hydra.run.dir=none").error
    assert not Path("none").exists()
    figures = {name: entry | {"boxes": 99} for name, entry in metrics["per_class"].items()}
    Path("other/detections.json").write_text(json.dumps(detections))
    Path("other/metrics.json").write_text(json.dumps(metrics | {"per_class": figures}))
    assert "was evaluated on other images" in command("eval", best, "compare=other", "report=true").error


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "the first 2 training images (overfit=2 limit_batches=null)"),
        (["limit_batches=1"], "the first 1 training images (overfit=2 limit_batches=1)"),
        (["overfit=0", "limit_batches=3"], "the first 3 validation images (overfit=0 limit_batches=3)"),
        (["overfit=0", "limit_batches=4"], None),
        (["overfit=0"], None),
    ],
)
def test_a_part_of_the_images_is_told_on_screen_and_in_the_report(command, trained, settings, said):
    best = trained / "checkpoints" / "best.pt"
    outcome = command("eval", f"ckpt={best}", "hydra.run.dir=part", "report=true", *settings)
    assert outcome.code == 0, outcome.err
    page = html.unescape(Path("part/report.html").read_text())
    if said is None:
        assert "\non the first" not in outcome.out and "on the first" not in page
    else:
        line = f"on {said}; overfit=0 limit_batches=null evaluates all validation images"
        assert f"\n{line}\n" in outcome.out and f"<dd>{line}</dd>" in page
