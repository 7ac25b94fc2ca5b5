"""From queries to detections."""

import torch

from neo_model.models import postprocess


def test_the_best_pairs_of_query_and_class_are_kept_over_all_queries():
    logits = torch.tensor([[[4.0, 3.0, -9.0], [-9.0, -9.0, -8.0], [-9.0, 2.0, 3.5]]])
    boxes = torch.tensor([[[0.1] * 4, [0.2] * 4, [0.3] * 4]])
    labels, kept, scores = postprocess({"pred_logits": logits, "pred_boxes": boxes}, num_top=4)
    # The first query gives two labels, the second none.
    assert labels.tolist() == [[0, 2, 1, 1]]
    torch.testing.assert_close(kept[0, :, 0], torch.tensor([0.1, 0.3, 0.1, 0.3]))
    torch.testing.assert_close(scores, torch.tensor([[4.0, 3.5, 3.0, 2.0]]).sigmoid())


def test_fewer_pairs_than_wanted_give_all_of_them():
    outputs = {"pred_logits": torch.randn(2, 5, 3), "pred_boxes": torch.rand(2, 5, 4)}
    labels, boxes, scores = postprocess(outputs, num_top=300)
    assert labels.shape == scores.shape == (2, 15) and boxes.shape == (2, 15, 4)


def test_half_precision_scores_are_ranked_in_float32():
    outputs = {"pred_logits": torch.randn(1, 5, 3).bfloat16(), "pred_boxes": torch.rand(1, 5, 4).bfloat16()}
    _, boxes, scores = postprocess(outputs)
    assert boxes.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(scores[0], outputs["pred_logits"].float().sigmoid().flatten().sort(descending=True)[0])
