"""Every loss term, the matching and the denoising mask equal the published criterion's."""

import numpy as np
import pytest
import torch

from neo_model.losses import Criterion, HungarianMatcher
from neo_model.models.denoising import attention_mask, denoising_layout
from neo_model.ops.targets import pad_targets
from tests import golden


@pytest.fixture
def case():
    _, figures = golden.load("criterion_denoising")

    def layer(name):
        return {k: torch.from_numpy(figures[f"in.{name}.{k}"]) for k in ("pred_logits", "pred_boxes")}

    targets = [
        {k: torch.from_numpy(figures[f"target.{i}.{k}"]) for k in ("labels", "boxes")} for i in range(3)
    ]
    outputs = layer("main") | {
        "aux_outputs": [layer("aux0"), layer("aux1")],
        "dn_aux_outputs": [layer("dn0"), layer("dn1")],
        "dn_meta": {
            "dn_positive_idx": [torch.from_numpy(figures[f"positive.{i}"]) for i in range(3)],
            "dn_num_group": int(figures["groups"]),
        },
    }
    return figures, outputs, targets


def test_losses(case):
    figures, outputs, targets = case
    losses = Criterion(num_classes=80, matcher=HungarianMatcher())(outputs, targets)
    wanted = {k.removeprefix("loss."): float(v) for k, v in figures.items() if k.startswith("loss.")}
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(wanted, rel=1e-4)


def test_matching(case):
    figures, outputs, targets = case
    counts = [len(target["labels"]) for target in targets]
    labels, boxes = pad_targets(targets, slots=max(counts), device=torch.device("cpu"))
    logits, predicted = outputs["pred_logits"][:, None], outputs["pred_boxes"][:, None]
    pairs = HungarianMatcher()(logits, predicted, labels, boxes, counts)[:, 0]
    for i in range(3):
        query, target = pairs[1:, pairs[0] == i]
        by_query = query.argsort()
        assert np.array_equal(torch.stack((query, target))[:, by_query].numpy(), figures[f"match.{i}"])


def test_denoising_mask():
    _, figures = golden.load("denoising_mask")
    num_queries = int(figures["num_queries"])
    slots, groups = denoising_layout(figures["counts"].tolist(), int(figures["num_denoising"]), num_queries)
    assert groups == figures["groups"]
    assert [2 * slots * groups, num_queries] == figures["split"].tolist()
    assert np.array_equal(attention_mask(slots, groups, num_queries).numpy(), figures["mask"])
