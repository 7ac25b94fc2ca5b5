"""Hungarian matching of all decoder layers beside DETR's flat form, which ``transformers`` and the official code use.

The flat form costs every query of the batch against every target of the batch, layer by layer, and then looks at the
blocks that belong together. The ceiling is scipy on costs that lie ready.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from neo_model.benchmark.measure import interleaved
from neo_model.benchmark.subjects import NUM_CLASSES, random_batch
from neo_model.benchmark.table import Report, Row, Table
from neo_model.engine.hardware import Hardware
from neo_model.losses import HungarianMatcher
from neo_model.losses.matcher import solve
from neo_model.ops.targets import pad_targets

PEER = "transformers, flat"
CEILING = "the assignments alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--layers", type=int, default=7, help="six decoder layers and the encoder's selection (7)")
    parser.add_argument("--batch", type=int, default=8, help="images (8)")
    parser.add_argument("--queries", type=int, default=300, help="of each layer and image (300)")
    parser.add_argument("--boxes", type=int, nargs="+", default=[10, 100, 300], help="of each image (10 100 300)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure every number of boxes asked for."""
    hardware = Hardware(device=arguments.device)
    hardware.set_backends()  # a training keeps freed memory, too
    tables = []
    for count in arguments.boxes:
        logits, boxes = random_predictions(arguments)
        batch = random_batch(1, 1, num_images=arguments.batch, num_boxes=count, device=arguments.device)
        title = f"{arguments.layers} layers x {arguments.batch} images, {arguments.queries} queries, {count} boxes each"
        candidates = {
            "ours": ours(logits, boxes, batch.targets),
            PEER: peer(logits, boxes, batch.peer_targets),
            CEILING: assignments(logits, boxes, batch.targets),
        }
        timings = interleaved(
            candidates, rounds=arguments.rounds, warmup=arguments.warmup, device=hardware.device.type
        )
        tables.append(Table(title, [Row(name, timing, "ms") for name, timing in timings.items()], PEER))
    return Report("matcher", tables)


def random_predictions(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Logits [B, L, Q, C] around the probability 0.02 and boxes [B, L, Q, 4] inside the image."""
    shape = (arguments.batch, arguments.layers, arguments.queries)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(*shape, NUM_CLASSES, generator=generator) * 2 - 4
    size = torch.rand(*shape, 2, generator=generator) * 0.3 + 0.05
    centre = torch.rand(*shape, 2, generator=generator) * (1 - size) + size / 2
    return logits.to(arguments.device), torch.cat((centre, size), dim=-1).to(arguments.device)


def ours(logits_BLQC: Tensor, boxes_BLQ4: Tensor, targets: list[dict[str, Tensor]]) -> Callable[[], Tensor]:
    """Our matching of all layers, the padding of the targets included."""
    matcher, counts = HungarianMatcher(), [len(target["labels"]) for target in targets]

    def match() -> Tensor:
        labels, boxes = pad_targets(targets, slots=max(counts), device=logits_BLQC.device)
        return matcher(logits_BLQC, boxes_BLQ4, labels, boxes, counts)

    return match


def peer(logits_BLQC: Tensor, boxes_BLQ4: Tensor, targets: list[dict[str, Tensor]]) -> Callable[[], list]:
    """``transformers``' matcher, called for one layer after the other as its loss does."""
    from transformers import RTDetrConfig
    from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

    matcher = RTDetrHungarianMatcher(RTDetrConfig())
    layers = [
        {"logits": logits, "pred_boxes": boxes}
        for logits, boxes in zip(logits_BLQC.unbind(1), boxes_BLQ4.unbind(1), strict=True)
    ]
    return lambda: [matcher(layer, targets) for layer in layers]


def assignments(logits_BLQC: Tensor, boxes_BLQ4: Tensor, targets: list[dict[str, Tensor]]) -> Callable[[], list]:
    """What no form can do without: every layer's and image's problem solved, the costs known. Equal numbers of targets."""
    labels, boxes = pad_targets(targets, slots=len(targets[0]["labels"]), device=logits_BLQC.device)
    costs_BLTQ = HungarianMatcher().cost(logits_BLQC, boxes_BLQ4, labels, boxes)
    problems = list(costs_BLTQ.flatten(0, 1).cpu().numpy())
    return lambda: solve(problems)
