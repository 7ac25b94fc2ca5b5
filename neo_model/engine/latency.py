"""How long a trained model takes for one image."""

import statistics
import time

import torch
from torch import nn

from neo_model.engine.evaluation_loop import EvaluationPlan, detect, inference_form
from neo_model.engine.hardware import Hardware
from neo_model.ops.geometry import Affine

WARMUP, FEWEST, MOST = 2, 3, 50
BUDGET_SECONDS = 2.0


def latency_ms(model: nn.Module, size_wh: tuple[int, int], plan: EvaluationPlan, hardware: Hardware) -> float:
    """Median time in milliseconds from a uint8 image on the host to its boxes on the host, batch 1, without decoding.

    Args:
        model: an `RTDETR`; a copy with norms folded in is timed.
        size_wh: input size in pixels.
        plan: thresholds that the detections go through.
        hardware: device and precision.
    """
    width, height = size_wh
    timed = inference_form(model, hardware).eval()
    image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    target = {"image_id": 0, "affine": Affine(1.0, 1.0, 0.0, 0.0), "source_wh": size_wh}
    samples, started = [], time.perf_counter()
    while len(samples) < WARMUP + FEWEST or (
        len(samples) < WARMUP + MOST and time.perf_counter() - started < BUDGET_SECONDS
    ):
        before = time.perf_counter()
        detect(timed, image, [target], plan, hardware)  # its boxes come to the host: nothing is left running
        samples.append(time.perf_counter() - before)
    return 1e3 * statistics.median(samples[WARMUP:])
