"""Rows 17, 18 and 39 of the README's table of faults: far too many boxes, none at all, and numbers that are none."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neo_model.data.transforms import FITS
from neo_model.engine import EvaluationPlan, Hardware, Runner, evaluate
from neo_model.evaluation import SUMMARY_KEYS, CocoEvaluator
from neo_model.losses import Criterion, HungarianMatcher
from tests.config.conftest import CPU, SIZE
from tests.evaluation.test_coco import CATEGORY_IDS, evaluated, random_case
from tests.models.test_training import assert_every_parameter_learns, total_loss, warm


@pytest.mark.parametrize(("count", "num_queries", "num_denoising_queries"), [(700, 20, 40), (130, 150, 260)])
def test_row_17_crowded_images_train_and_denoise_no_more_boxes_than_there_are_queries(
    make_model, make_targets, count, num_queries, num_denoising_queries
):
    model = make_model(num_queries=num_queries).train()
    warm(model)
    images, targets = torch.rand(2, 3, 96, 160), make_targets(count, 1)
    outputs = model(images, targets)
    assert outputs["dn_aux_outputs"][0]["pred_logits"].shape[1] == num_denoising_queries
    losses = Criterion(num_classes=3, matcher=HungarianMatcher())(outputs, targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert_every_parameter_learns(model)


def test_row_17_a_line_at_the_start_names_the_images_with_more_boxes_than_queries(make_coco, command, monkeypatch):
    root = make_coco("some", ["a"])
    path = root / "instances_train.json"
    content = json.loads(path.read_text())
    (box,) = [row for row in content["annotations"] if row["image_id"] == 2]
    content["annotations"] += [box | {"id": 100 + i} for i in range(20)]  # 21 in image 2
    content["annotations"] += [box | {"id": 200 + i, "image_id": 3, "iscrowd": 1} for i in range(20)]
    path.write_text(json.dumps(content))
    own = ["data=custom", f"data.root={root}", "model=tiny", "model.num_queries=20", "logger=none", *SIZE, *CPU]
    monkeypatch.setattr(Runner, "run", lambda runner: 0.0)  # that training goes on is shown above
    outcome = command("train", *own, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    said = f"{path}: 1 images with more boxes than the 20 queries of the model (image ids): 2; at most 20 of each"
    for text in (outcome.err, Path("run", "train.log").read_text()):
        assert text.count("queries of the model") == 1 and f"{said} are learnt and found\n" in text


def test_row_18_no_detections_at_all_score_zero():
    ground_truth, _ = random_case()
    never_updated = CocoEvaluator(ground_truth, CATEGORY_IDS).compute()
    nothing = {image["id"]: (np.zeros((0, 4)), np.zeros(0), np.zeros(0)) for image in ground_truth["images"]}
    for metrics in (never_updated, evaluated(ground_truth, nothing).compute()):
        assert [metrics[key] for key in SUMMARY_KEYS] == [0.0] * 12
        assert all(figures["AP"] == 0.0 for figures in metrics["per_class"].values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["box", "score"])
def test_row_18_predictions_that_are_not_finite_are_an_error_naming_the_image(value, where):
    ground_truth, _ = random_case()
    boxes, scores = np.ones((2, 4)), np.ones(2)
    (boxes if where == "box" else scores)[1] = value
    with pytest.raises(FloatingPointError, match="image 103"):
        CocoEvaluator(ground_truth, CATEGORY_IDS).update(103, boxes, scores, np.zeros(2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_row_18_a_logit_that_is_not_finite_is_an_error_and_no_score(value):
    """A sigmoid would make 1 or 0 of an infinite one."""
    ground_truth, _ = random_case()
    logits = torch.zeros(1, 5, len(CATEGORY_IDS))
    logits[0, 3, 1] = value
    model = nn.Identity()
    model.forward = lambda images: {"pred_logits": logits, "pred_boxes": torch.full((1, 5, 4), 0.5)}
    target = {"image_id": 103, "affine": FITS["stretch"]((64, 64), (64, 64)).affine, "source_wh": (64, 64)}
    evaluator = CocoEvaluator(ground_truth, CATEGORY_IDS)
    hardware = Hardware(device="cpu", precision="fp32")
    with pytest.raises(FloatingPointError, match="image 103"):
        evaluate(model, [(torch.zeros(1, 3, 64, 64), [target])], evaluator, EvaluationPlan(), hardware)


def test_row_39_a_batch_without_any_box_runs_the_same_graph(make_model, make_targets):
    model = make_model().train()
    loss = total_loss(model, torch.rand(2, 3, 64, 96), make_targets(0, 0))
    assert loss.isfinite() and loss > 0
    loss.backward()
    assert_every_parameter_learns(model, may_be_zero=True)
