"""What the benchmark of matching compares gives one and the same assignment."""

import argparse

import pytest

from neo_model.benchmark.matcher import assignments, ours, peer, random_predictions
from neo_model.benchmark.subjects import random_batch


@pytest.mark.parametrize("count", [3, 12])
def test_we_and_the_peer_assign_alike(count):
    pytest.importorskip("transformers")
    logits, boxes = random_predictions(argparse.Namespace(batch=2, layers=2, queries=10, device="cpu"))
    batch = random_batch(1, 1, num_images=2, num_boxes=count)
    pairs = ours(logits, boxes, batch.targets)()
    for layer, images in enumerate(peer(logits, boxes, batch.peer_targets)()):
        for image, (queries, targets) in enumerate(images):
            mine = pairs[1:, layer, pairs[0, layer] == image]
            assert set(zip(*mine.tolist(), strict=True)) == set(zip(queries.tolist(), targets.tolist(), strict=True))


@pytest.mark.parametrize("count", [3, 12])
def test_the_assignments_alone_are_those_of_the_matcher(count):
    """With more targets than queries, too."""
    logits, boxes = random_predictions(argparse.Namespace(batch=2, layers=2, queries=10, device="cpu"))
    targets = random_batch(1, 1, num_images=2, num_boxes=count).targets
    images, queries, matched = ours(logits, boxes, targets)()
    solutions = assignments(logits, boxes, targets)()
    for number, (rows, columns) in enumerate(solutions):
        image, layer = divmod(number, 2)
        of_image = images[layer] == image
        assert matched[layer, of_image].tolist() == rows.tolist()
        assert queries[layer, of_image].tolist() == columns.tolist()
