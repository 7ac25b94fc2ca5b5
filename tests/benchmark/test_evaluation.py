"""The benchmark of the COCO figures on sets that take no time."""

import argparse

import numpy as np
import pytest

from neo_model.benchmark import evaluation
from neo_model.benchmark.coco_case import CocoCase, make_coco_case


@pytest.fixture
def case() -> CocoCase:
    return make_coco_case(num_images=40, num_detections=150, num_classes=6)


def test_the_set_is_one_that_coco_could_hold(case, tmp_path):
    ground_truth = case.ground_truth()
    assert len(ground_truth["images"]) == 40 and len(ground_truth["categories"]) == 6
    assert 150 < len(ground_truth["annotations"]) < 600
    boxes = np.array([annotation["bbox"] for annotation in ground_truth["annotations"]])
    assert (boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= (640, 480)).all()
    assert (np.diff(case.scores, axis=1) <= 0).all()
    assert len(case.results()) == 40 * 150
    case.save(tmp_path / "case.npz")
    assert CocoCase.load(tmp_path / "case.npz").results() == case.results()


@pytest.mark.parametrize("name", [evaluation.OURS, evaluation.FASTER])
def test_a_candidate_gives_the_figures_of_pycocotools(case, name):
    if name == evaluation.FASTER:
        pytest.importorskip("faster_coco_eval")
    expected, found = (evaluation.CANDIDATES[n]()(case.ground_truth(), case) for n in (evaluation.REFERENCE, name))
    assert 0.1 < expected[0][0] < 0.9
    for values, ours in zip(expected, found, strict=True):
        np.testing.assert_allclose(ours, values, atol=1e-6)


@pytest.mark.slow
def test_the_report_has_a_row_for_each_candidate():
    pytest.importorskip("faster_coco_eval")
    options = argparse.Namespace(
        images=20, detections=50, classes=4, seed=0, rounds=1, pycocotools_rounds=2, warmup=0, threads=None
    )
    times, peaks, differences = evaluation.run(options).tables
    assert [row.name for row in times.rows][:3] == [row.name for row in peaks.rows] == list(evaluation.CANDIDATES)
    assert [len(row.value.samples) for row in times.rows[:3]] == [1, 1, 2]
    assert all(0 <= row.value < 1e-6 for row in differences.rows)
    assert all(0.05 < row.value < 4 for row in peaks.rows)
