"""Which of a network's outputs count as detections, and where they lie in the file."""

import math

import pytest
import torch

from neo_model.engine import EvaluationPlan, detect, evaluate
from neo_model.ops.geometry import letterbox

SOURCE_WH, NETWORK_WH = (200, 100), (128, 96)


class Fixed(torch.nn.Module):
    """Answers the same for every image: boxes in 0..1 and scores of two classes."""

    def __init__(self, boxes_cxcywh, scores) -> None:
        super().__init__()
        self.boxes, self.logits = torch.tensor(boxes_cxcywh), torch.logit(torch.tensor(scores))

    def forward(self, images):
        count = len(images)
        return {
            "pred_logits": self.logits.expand(count, -1, -1).clone(),
            "pred_boxes": self.boxes.expand(count, -1, -1).clone(),
        }


# Two boxes that share 9/11 of their union, one apart; the letterbox is 128 x 64 at y = 16.
BOXES = [[0.5, 0.5, 0.2, 0.2], [0.52, 0.5, 0.2, 0.2], [0.1, 0.5, 0.1, 0.1]]
SCORES = [[0.9, 0.1], [0.8, 0.7], [0.05, 0.6]]


@pytest.fixture
def find(make_hardware):
    """Detections of one image under a plan."""

    def find(boxes=BOXES, scores=SCORES, **plan):
        target = {"image_id": 7, "affine": letterbox(SOURCE_WH, NETWORK_WH).affine, "source_wh": SOURCE_WH}
        images = torch.zeros(1, 3, NETWORK_WH[1], NETWORK_WH[0], dtype=torch.uint8)
        (found,) = detect(Fixed(boxes, scores), images, [target], EvaluationPlan(**plan), make_hardware())
        return found

    return find


def pairs(found) -> list[tuple[float, int]]:
    return [(round(score, 4), label) for score, label in zip(found.scores.tolist(), found.labels.tolist(), strict=True)]


def test_by_default_every_pair_of_query_and_class_counts(find):
    found = find()
    assert found.image_id == 7
    assert pairs(found) == [(0.9, 0), (0.8, 0), (0.7, 1), (0.6, 1), (0.1, 1), (0.05, 0)]


def test_boxes_are_in_pixels_of_the_file(find):
    # Centre (64, 48), 25.6 x 19.2 in the network's input, whose scale is 0.64 with 16 rows of border above.
    torch.testing.assert_close(find().boxes_xyxy[0], torch.tensor([80.0, 35.0, 120.0, 65.0]))


def test_boxes_are_clipped_to_the_file(find):
    found = find([[0.0, 0.0, 0.5, 0.5]], [[0.9, 0.1]])
    torch.testing.assert_close(found.boxes_xyxy[0], torch.tensor([0.0, 0.0, 50.0, 12.5]))


def test_the_threshold_keeps_scores_that_reach_it(find):
    assert pairs(find(conf_threshold=0.65)) == [(0.9, 0), (0.8, 0), (0.7, 1)]


def test_nms_drops_the_lower_of_two_boxes_of_one_class_only(find):
    assert pairs(find(nms_threshold=0.5)) == [(0.9, 0), (0.7, 1), (0.6, 1), (0.05, 0)]
    assert len(find(nms_threshold=0.9).scores) == 6


def test_no_more_detections_than_the_plan_allows(find):
    assert pairs(find(max_detections=2)) == [(0.9, 0), (0.8, 0)]


def test_a_score_that_is_not_a_number_is_not_hidden_by_the_threshold(find):
    scores = [[0.9, 0.1], [math.nan, 0.7], [0.05, 0.6]]
    assert find(scores=scores, conf_threshold=0.5).scores.isnan().any()


def test_every_image_reaches_the_evaluator_once_and_the_model_is_in_evaluation_mode(make_hardware):
    seen = {}

    class Evaluator:
        def update(self, image_id, boxes_xyxy, scores, labels) -> None:
            assert image_id not in seen
            seen[image_id] = len(scores)

    affine = letterbox(SOURCE_WH, NETWORK_WH).affine
    batches = [
        (torch.zeros(len(ids), 3, 96, 128), [{"image_id": i, "affine": affine, "source_wh": SOURCE_WH} for i in ids])
        for ids in ([1, 2], [9])
    ]
    model = Fixed(BOXES, SCORES).train()
    evaluate(model, batches, Evaluator(), EvaluationPlan(conf_threshold=0.5), make_hardware())
    assert seen == {1: 4, 2: 4, 9: 4} and not model.training


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (10, [5])])
def test_due_every_so_many_epochs_and_at_the_end(every, due):
    plan = EvaluationPlan(every=every)
    assert [epoch for epoch in range(1, 6) if plan.is_due(epoch, 5)] == due
