"""Metrics as aligned plain text."""

import math

from neo_model.evaluation.coco import SUMMARY_KEYS

UNDEFINED = "-"
MEANING = {
    "AP": "average precision, IoU 0.50 to 0.95",
    "AP50": "average precision, IoU 0.50",
    "AP75": "average precision, IoU 0.75",
    "APs": "AP of small objects, under 32 x 32 pixels",
    "APm": "AP of medium objects",
    "APl": "AP of large objects, over 96 x 96 pixels",
    "AR1": "average recall, one detection an image and class",
    "AR10": "average recall, ten detections an image and class",
    "AR100": "average recall, 100 detections an image and class",
    "ARs": "AR of small objects",
    "ARm": "AR of medium objects",
    "ARl": "AR of large objects",
}


def summary_table(metrics: dict) -> str:
    """The twelve COCO figures, a line each, with what they mean; "-" where there is no such object."""
    rows = [[key, _figure(metrics[key]), MEANING[key]] for key in SUMMARY_KEYS]
    return _align([["metric", "value", "meaning"], *rows], left={0, 2})


def class_table(metrics: dict) -> str:
    """A line for each class: images, boxes, AP, AP50; "-" for a class without ground truth."""
    rows = [
        [name, str(figures["images"]), str(figures["boxes"]), _figure(figures["AP"]), _figure(figures["AP50"])]
        for name, figures in metrics["per_class"].items()
    ]
    return _align([["class", "images", "boxes", "AP", "AP50"], *rows], left={0})


def _figure(value: float | None) -> str:
    """Three decimals, as COCO prints; None is what NaN becomes in JSON."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.3f}"


def _align(rows: list[list[str]], left: set[int]) -> str:
    """Columns padded to their widest cell, a rule under the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
