"""From step reports to console figures and records."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from neo_model.data.findings import first_of
from neo_model.engine.console import ProgressLine
from neo_model.engine.training_loop import Batch, StepReport

if TYPE_CHECKING:
    from neo_model.engine.runner import Runner

log = logging.getLogger(__name__)


class StepRecorder:
    """Turns step reports into console figures and records."""

    def __init__(self, runner: Runner, line: ProgressLine) -> None:
        self.runner, self.line = runner, line
        self.images, self.since, self.waited = 0, time.monotonic(), 0.0

    def waiting_for(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """``batches``, each noted with the seconds that it was waited for."""
        asked = time.monotonic()
        for batch in batches:
            self.waited += time.monotonic() - asked
            yield batch
            asked = time.monotonic()

    def __call__(self, report: StepReport) -> None:
        runner, progress = self.runner, self.runner.progress
        self.images += len(report.image_ids)
        if not math.isfinite(report.gradient_norm):
            images = first_of(report.image_ids)
            log.warning("step %d skipped: its loss or gradient is not finite (images %s)", progress.step, images)
            runner.record({"train/skipped": 1.0})
            return
        if progress.step % runner.settings.log_every and progress.step != 1:
            self.line.advance()
            return
        now = time.monotonic()
        seconds = max(now - self.since, 1e-9)
        runner.showing.note_matches(report.matched_ious)
        losses = report.losses
        last_layer = sum(losses[name] for name in ("loss_vfl", "loss_bbox", "loss_giou"))
        values = {
            "loss": sum(losses.values()),
            "loss_last_layer": last_layer,
            "loss_without_denoising": sum(v for k, v in losses.items() if "_dn_" not in k),
            "lr": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            "images_per_second": self.images / seconds,
            "data_wait_percent": 100 * self.waited / seconds,
            "memory_gib": runner.hardware.memory_gib(),
        }
        self.images, self.since, self.waited = 0, now, 0.0
        bad_images = {"data/bad_images": runner.train_loader.num_bad_images}
        values |= losses
        runner.record({f"train/{k}": v for k, v in values.items()} | bad_images)
        self.line.advance(epoch=f"{progress.epoch + 1}/{runner.settings.epochs}", **values)
