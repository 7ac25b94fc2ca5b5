"""Each loss term against values worked out by hand, and what happens without targets."""

import math

import pytest
import torch

from neo_model.losses import Criterion, HungarianMatcher
from neo_model.ops.targets import pad_targets
from tests.losses.plain import plain_losses

BOX, LABEL = [0.5, 0.5, 0.4, 0.2], 1


@pytest.fixture
def criterion():
    return Criterion(num_classes=2, matcher=HungarianMatcher())


def outputs_of(*boxes: list[float], logits: list[list[float]], images: int = 1) -> dict[str, torch.Tensor]:
    repeated = (torch.tensor(values)[None].repeat(images, 1, 1).requires_grad_() for values in (logits, boxes))
    return dict(zip(("pred_logits", "pred_boxes"), repeated, strict=True))


def targets_of(*boxes: list[float], labels: list[int] | None = None) -> dict[str, torch.Tensor]:
    labels = [LABEL] * len(boxes) if labels is None else labels
    return {"labels": torch.tensor(labels, dtype=torch.int64), "boxes": torch.tensor(boxes).view(-1, 4)}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def varifocal(logit: float, quality: float | None = None) -> float:
    """Zhang et al. 2021, eq. 2: q * BCE(p, q) for the matched class, 0.75 p^2 * BCE(p, 0) for others."""
    p = sigmoid(logit)
    if quality is None:
        return 0.75 * p**2 * -math.log(1 - p)
    return quality * -(quality * math.log(p) + (1 - quality) * math.log(1 - p))


# Shifted right by a quarter of its width: IoU 3/5, the hull is the union.
SHIFTED = [0.6, 0.5, 0.4, 0.2]
LOGITS = [[-1.0, 2.0], [0.5, -3.0]]
AWAY = [0.1, 0.1, 0.1, 0.1]


def test_terms_of_one_matched_and_one_free_query(criterion):
    losses = criterion(outputs_of(SHIFTED, AWAY, logits=LOGITS), [targets_of(BOX)])
    vfl = varifocal(-1.0) + varifocal(2.0, quality=0.6) + varifocal(0.5) + varifocal(-3.0)
    values = {name: loss.item() for name, loss in losses.items()}
    assert values == pytest.approx({"loss_vfl": vfl, "loss_bbox": 5 * 0.1, "loss_giou": 2 * (1 - 0.6)}, rel=1e-5)


def test_the_overlap_of_each_layers_pairs_can_be_looked_at(criterion):
    assert criterion.matched_ious() == {}
    outputs = outputs_of(SHIFTED, AWAY, logits=LOGITS)
    criterion(outputs | {"aux_outputs": [outputs_of(BOX, AWAY, logits=LOGITS)]}, [targets_of(BOX)])
    ious = criterion.matched_ious()
    assert ious.keys() == {"", "_aux_0"}
    assert ious[""].tolist() == pytest.approx([0.6]) and ious["_aux_0"].tolist() == pytest.approx([1.0])
    assert not ious[""].requires_grad
    criterion(outputs, [targets_of()])
    assert criterion.matched_ious()[""].shape == (0,)


def test_weights_multiply_their_terms():
    weights = {"vfl_weight": 3.0, "bbox_weight": 0.5, "giou_weight": 0.0}
    outputs, targets = outputs_of(SHIFTED, AWAY, logits=LOGITS), [targets_of(BOX)]
    plain = Criterion(num_classes=2, matcher=HungarianMatcher())(outputs, targets)
    weighted = Criterion(num_classes=2, matcher=HungarianMatcher(), **weights)(outputs, targets)
    assert weighted["loss_vfl"].item() == pytest.approx(3 * plain["loss_vfl"].item())
    assert weighted["loss_bbox"].item() == pytest.approx(0.1 * plain["loss_bbox"].item())
    assert weighted["loss_giou"].item() == 0


def test_a_matched_class_without_any_overlap_weighs_nothing(criterion):
    outputs = outputs_of(AWAY, logits=[[-1.0, 2.0]])
    losses = criterion(outputs, [targets_of(BOX)])
    assert losses["loss_vfl"].item() == pytest.approx(varifocal(-1.0), rel=1e-5)
    assert losses["loss_giou"].item() > 2


def test_the_quality_of_a_box_is_a_target_that_takes_no_gradient(criterion):
    outputs = outputs_of(SHIFTED, AWAY, logits=LOGITS)
    criterion(outputs, [targets_of(BOX)])["loss_vfl"].backward()
    assert outputs["pred_boxes"].grad is None or not outputs["pred_boxes"].grad.any()
    # The weight p^2 of a negative is a constant as well: the gradient is 0.75 p^2 * p.
    p = sigmoid(0.5)
    assert outputs["pred_logits"].grad[0, 1, 0].item() == pytest.approx(0.75 * p**3, rel=1e-5)


def test_losses_are_divided_by_the_boxes_of_the_batch(criterion):
    one = criterion(outputs_of(SHIFTED, AWAY, logits=LOGITS), [targets_of(BOX)])
    outputs = outputs_of(SHIFTED, AWAY, logits=LOGITS, images=3)
    three = criterion(outputs, [targets_of(BOX), targets_of(BOX), targets_of(BOX)])
    for name, loss in one.items():
        assert three[name].item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_given_number_of_boxes_normalises_instead(criterion):
    outputs, targets = outputs_of(SHIFTED, AWAY, logits=LOGITS), [targets_of(BOX)]
    own, given = criterion(outputs, targets), criterion(outputs, targets, num_boxes=4)
    less_than_one = criterion(outputs, targets, num_boxes=0)
    for name, loss in own.items():
        assert given[name].item() == pytest.approx(loss.item() / 4, rel=1e-5)
        assert less_than_one[name].item() == pytest.approx(loss.item(), rel=1e-5)


def test_two_halves_with_the_number_of_the_whole_add_up_to_the_whole(criterion, make_targets):
    generator = torch.Generator().manual_seed(0)
    logits, boxes = torch.randn(4, 6, 2, generator=generator), torch.rand(4, 6, 4, generator=generator)
    targets = make_targets(3, 0, 5, 1, num_classes=2)
    whole = criterion({"pred_logits": logits, "pred_boxes": boxes}, targets)
    halves = [
        criterion({"pred_logits": logits[part], "pred_boxes": boxes[part]}, targets[part], num_boxes=9)
        for part in (slice(0, 2), slice(2, 4))
    ]
    for name, loss in whole.items():
        assert sum(half[name].item() for half in halves) == pytest.approx(loss.item(), rel=1e-5)


def test_without_targets_everything_is_background(criterion):
    outputs = outputs_of(SHIFTED, AWAY, logits=LOGITS)
    losses = criterion(outputs, [targets_of()])
    expected = sum(varifocal(logit) for logits in LOGITS for logit in logits)
    assert losses["loss_vfl"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["loss_bbox"].item() == losses["loss_giou"].item() == 0
    sum(losses.values()).backward()
    assert outputs["pred_logits"].grad.isfinite().all()
    assert outputs["pred_boxes"].grad is not None and not outputs["pred_boxes"].grad.any()


def test_each_layer_is_matched_on_its_own(criterion):
    """The layers' only query on the target differs; swapped with its layer each loss stays the same."""
    last, first = outputs_of(SHIFTED, AWAY, logits=LOGITS), outputs_of(AWAY, SHIFTED, logits=LOGITS[::-1])
    selection = outputs_of(BOX, AWAY, logits=LOGITS)
    losses = criterion(last | {"aux_outputs": [first, selection]}, [targets_of(BOX)])
    names = ("loss_vfl", "loss_bbox", "loss_giou")
    assert set(losses) == {f"{name}{suffix}" for name in names for suffix in ("", "_aux_0", "_aux_1")}
    for name in names:
        assert losses[f"{name}_aux_0"].item() == pytest.approx(losses[name].item(), rel=1e-5)
    assert losses["loss_bbox_aux_1"].item() == pytest.approx(0, abs=1e-6)
    assert losses["loss_giou_aux_1"].item() == pytest.approx(0, abs=1e-5)


def denoising_outputs(positive: list[torch.Tensor], groups: int, boxes: list[list[float]]) -> dict:
    logits = [[-1.0, 2.0]] * len(boxes)
    matching = outputs_of(BOX, logits=[[-9.0, 9.0]])
    meta = {"dn_positive_idx": positive, "dn_num_group": groups}
    return matching | {"dn_aux_outputs": [outputs_of(*boxes, logits=logits)], "dn_meta": meta}


def test_denoising_queries_keep_their_targets_and_groups_share_the_loss(criterion):
    # Two groups of [positive | negative]; matching would give the target to query 1, which lies on it.
    outputs = denoising_outputs([torch.tensor([0, 2])], 2, [SHIFTED, BOX, SHIFTED, AWAY])
    losses = criterion(outputs, [targets_of(BOX)])
    vfl = 2 * (varifocal(-1.0) + varifocal(2.0, 0.6)) + 2 * (varifocal(-1.0) + varifocal(2.0))
    expected = {"loss_vfl_dn_0": vfl / 2, "loss_bbox_dn_0": 5 * 0.1, "loss_giou_dn_0": 2 * 0.4}
    assert {name: losses[name].item() for name in expected} == pytest.approx(expected, rel=1e-5)


def test_denoising_slots_follow_the_order_of_the_targets(criterion):
    other = [0.2, 0.2, 0.1, 0.1]
    right = denoising_outputs([torch.tensor([0, 1])], 1, [BOX, other])
    wrong = denoising_outputs([torch.tensor([1, 0])], 1, [BOX, other])
    targets = [targets_of(BOX, other)]
    assert criterion(right, targets)["loss_bbox_dn_0"].item() == pytest.approx(0, abs=1e-6)
    assert criterion(wrong, targets)["loss_bbox_dn_0"].item() > 1


def test_denoising_without_targets_is_background(criterion):
    outputs = denoising_outputs([torch.zeros(0, dtype=torch.int64)], 1, [AWAY, AWAY])
    losses = criterion(outputs, [targets_of()])
    assert losses["loss_vfl_dn_0"].item() == pytest.approx(2 * (varifocal(-1.0) + varifocal(2.0)), rel=1e-5)
    assert losses["loss_bbox_dn_0"].item() == 0


def test_losses_of_half_precision_outputs_are_float32(criterion):
    outputs = {name: value.detach().bfloat16() for name, value in outputs_of(SHIFTED, logits=[[-1.0, 2.0]]).items()}
    losses = criterion(outputs, [targets_of(BOX)])
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_nan_predictions_raise(criterion):
    outputs = outputs_of(SHIFTED, AWAY, logits=[[0.0, 0.0], [math.nan, 0.0]])
    for targets in ([targets_of(BOX)], [targets_of()]):
        with pytest.raises(FloatingPointError):
            criterion(outputs, targets)


def test_all_layers_in_one_pass_are_the_layers_one_by_one(make_targets):
    """Losses and gradients as the plain form has them in float64: images of different fullness, denoising in groups
    and another number of queries."""
    generator = torch.Generator().manual_seed(0)
    targets, counts, groups = make_targets(3, 0, 5, num_classes=4), [3, 0, 5], 2

    def layer(queries: int) -> dict[str, torch.Tensor]:
        logits = torch.randn(3, queries, 4, generator=generator) * 3
        boxes = torch.rand(3, queries, 4, generator=generator) * 0.4 + 0.2
        return {"pred_logits": logits.requires_grad_(), "pred_boxes": boxes.requires_grad_()}

    matched, denoised = [layer(7) for _ in range(3)], [layer(20) for _ in range(2)]
    positive = [torch.cat([torch.arange(n) + 10 * group for group in range(groups)]) for n in counts]
    meta = {"dn_positive_idx": positive, "dn_num_group": groups}
    criterion = Criterion(num_classes=4, matcher=HungarianMatcher())
    losses = criterion(
        matched[0] | {"aux_outputs": matched[1:], "dn_aux_outputs": denoised, "dn_meta": meta}, targets
    )

    def exact(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}

    expected, exact_targets = {}, [exact(target) for target in targets]
    labels, boxes = pad_targets(targets, slots=5, device=torch.device("cpu"))
    for suffix, outputs in zip(("", "_aux_0", "_aux_1"), matched, strict=True):
        logits, predicted = outputs["pred_logits"][:, None], outputs["pred_boxes"][:, None]
        image, query, target = criterion.matcher(logits, predicted, labels, boxes, counts)[:, 0]
        pairs = [(query[image == i], target[image == i]) for i in range(3)]
        expected[suffix] = plain_losses(exact(outputs), exact_targets, num_boxes=8, pairs_of=pairs)
    for i, outputs in enumerate(denoised):
        pairs = [(index, torch.arange(n).repeat(groups)) for index, n in zip(positive, counts, strict=True)]
        expected[f"_dn_{i}"] = plain_losses(exact(outputs), exact_targets, num_boxes=16, pairs_of=pairs)
    names = ("loss_vfl", "loss_bbox", "loss_giou")
    flat = {
        f"{name}{suffix}": loss for suffix, terms in expected.items() for name, loss in zip(names, terms, strict=True)
    }
    assert losses.keys() == flat.keys()
    for name, loss in flat.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-6), name

    leaves = [tensor for outputs in matched + denoised for tensor in outputs.values()]
    ours = torch.autograd.grad(sum(losses.values()), leaves)
    plain = torch.autograd.grad(sum(flat.values()), leaves)
    for gradient, expected_gradient in zip(ours, plain, strict=True):
        largest = expected_gradient.abs().max().item()
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-6 * largest, rtol=0)
