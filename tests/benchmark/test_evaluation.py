"""The benchmark of the COCO figures on sets that take no time."""

import argparse

import numpy as np
import pytest

from neo_model.benchmark import evaluation, measure
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
    report = evaluation.run(options)
    times, peaks, differences = report.tables
    assert "pycocotools has 2 samples where the others have 1" in "\n".join(report.notes)
    assert [row.name for row in times.rows][:3] == [row.name for row in peaks.rows] == list(evaluation.CANDIDATES)
    assert [len(row.value.samples) for row in times.rows[:3]] == [1, 1, 2]
    assert all(0 <= row.value < 1e-6 for row in differences.rows)
    assert all(0.05 < row.value < 4 for row in peaks.rows)


def test_the_ratios_are_to_the_better_peer():
    seconds = {evaluation.OURS: 1.0, evaluation.FASTER: 4.0, evaluation.REFERENCE: 8.0, evaluation.SORT: 0.5}
    times = evaluation._times("size", {name: [measure.Timing((value,))] for name, value in seconds.items()})
    assert times.ratios() == [0.25, 1.0, 2.0, 0.125] and "x best peer" in times.text()
    gibs = {evaluation.OURS: 1.0, evaluation.FASTER: 4.0, evaluation.REFERENCE: 2.0}
    samples = {name: [evaluation.Sample(0.0, (), 0.0, gib)] for name, gib in gibs.items()}
    assert evaluation._peaks(samples).ratios() == [0.5, 2.0, 1.0]


def test_a_disturbed_sample_is_retaken_in_another_process(case, tmp_path, monkeypatch):
    started = []

    def in_a_process(name, path):
        started.append(name)
        return evaluation.Sample(float(len(started)), (), 0.0, 0.0)

    monkeypatch.setattr(evaluation, "_in_a_process", in_a_process)
    readings = iter([0.0, 0.5] + [0.5] * 40)  # the first process meets half a second of others' CPU time, the rest none
    monkeypatch.setattr(measure, "seconds_of_other_processes", lambda: next(readings))
    monkeypatch.setattr(measure, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(measure, "SAMPLE_SECONDS", 0.0)
    rounds = {evaluation.OURS: 2, evaluation.REFERENCE: 1}
    samples, times = evaluation._take_turns(tmp_path, case, rounds)
    assert started == [evaluation.OURS, evaluation.OURS, evaluation.REFERENCE, evaluation.OURS]
    assert [sample.seconds for sample in samples[evaluation.OURS]] == [2.0, 4.0]
    assert times[evaluation.OURS] == [measure.Timing((2.0,), retakes=1), measure.Timing((4.0,))]
    assert len(times[evaluation.SORT]) == 2  # the ceiling takes its turn in every round
