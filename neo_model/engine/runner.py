"""A training run: what `train_one_epoch` learns, written down. All side effects of training live here."""

import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from neo_model.data import DetectionData
from neo_model.engine.checkpoint import check_classes, read_checkpoint, write_checkpoint
from neo_model.engine.console import ProgressLine
from neo_model.engine.evaluation_loop import EvaluationPlan, detect, evaluate, inference_form
from neo_model.engine.hardware import Hardware
from neo_model.engine.loggers import Logger, MetricsFile
from neo_model.engine.progress import Interrupted, Progress, StopRequest, unless_stopped
from neo_model.engine.step_recorder import StepRecorder
from neo_model.engine.training_loop import Learner, train_one_epoch
from neo_model.evaluation import SUMMARY_KEYS, CocoEvaluator, draw_detections
from neo_model.losses import Criterion
from neo_model.ops.boxes import cxcywh_to_xyxy
from neo_model.ops.geometry import Affine
from neo_model.optim import AdamW, Ema, Schedule
from neo_model.utils import NonNegativeInt, PositiveInt, UserError
from neo_model.utils.seeding import random_state, restore_random_state

log = logging.getLogger(__name__)

DRAWN_SCORE = 0.3  # detections below it are left out of pictures


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long and on how much a run trains.

    Attributes:
        epochs: passes over the training images.
        seed: of the order and the augmentation; the caller seeds the weights.
        overfit: train and evaluate on this many training images; 0 is off.
        limit_batches: stop each epoch and each evaluation after this many batches.
        log_every: optimizer steps between two records.
    """

    epochs: PositiveInt
    seed: NonNegativeInt = 0
    overfit: NonNegativeInt = 0
    limit_batches: PositiveInt | None = None
    log_every: PositiveInt = 10


class Runner:
    """Trains, evaluates, records and saves one run in ``run_dir``.

    Args:
        model, criterion: on any device; they are moved to the hardware's.
        data: prepared data set.
        optim, schedule, ema: what `build` makes the optimizer, the scheduler and the average.
        plan: when and how to evaluate.
        loggers: besides the console and ``metrics.jsonl``.
        hardware: device, precision, batch.
        settings: length of the run.
        run_dir: the run's folder, which exists.
        config: the run's configuration in plain containers, kept in every checkpoint.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        criterion: Criterion,
        data: DetectionData,
        optim: AdamW,
        schedule: Schedule,
        ema: Ema,
        plan: EvaluationPlan,
        loggers: list[Logger],
        hardware: Hardware,
        settings: RunSettings,
        run_dir: Path,
        config: dict,
    ) -> None:
        self.data, self.plan, self.hardware, self.settings = data, plan, hardware, settings
        self.run_dir, self.config, self.classes = run_dir, config, data.classes
        self.progress = Progress()
        self.metrics_file, self.loggers = MetricsFile(run_dir), loggers
        hardware.set_backends()
        self.train_loader = data.train_loader(seed=settings.seed, overfit=settings.overfit, **hardware.loading)
        self.val_loader = data.val_loader(overfit=settings.overfit, limit=settings.limit_batches, **hardware.loading)
        model = hardware.place_for_training(model)
        optimizer = optim.build(model)
        self.steps_per_epoch = math.ceil(self.batches_per_epoch / hardware.accumulate)
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.learner = Learner(
            model=model,
            criterion=criterion.to(hardware.device),
            optimizer=optimizer,
            scheduler=schedule.build(optimizer, steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps),
            scaler=hardware.grad_scaler(),
            ema=ema.build(model),
            clip_norm=optim.clip_norm,
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch, after ``limit_batches``."""
        return min(len(self.train_loader), self.settings.limit_batches or len(self.train_loader))

    @property
    def last_path(self) -> Path:
        """The newest state, to go on from."""
        return self.run_dir / "checkpoints" / "last.pt"

    @property
    def best_path(self) -> Path:
        """The weights with the best validation AP so far."""
        return self.run_dir / "checkpoints" / "best.pt"

    def run(self) -> float:
        """Train to the end.

        Returns:
            the best validation AP.

        Raises:
            Interrupted: Ctrl-C or SIGTERM, after the checkpoint.
            UserError: training diverged, an image cannot be used, or the disk is full.
        """
        resume_step = self.progress.step if self.progress.step else None
        for logger in self.loggers:
            logger.start(self.run_dir, self.config, resume_step)
        try:
            with StopRequest() as stop, ProgressLine(self.total_steps, self.progress.step) as line:
                self._train(stop, line)
        finally:
            self.train_loader.close()
            for logger in self.loggers:
                logger.close()
        return max(self.progress.best_ap, 0.0)

    def _train(self, stop: StopRequest, line: ProgressLine) -> None:
        progress, plan, epochs = self.progress, self.plan, self.settings.epochs
        if plan.at_start and progress.step == 0:
            progress.unevaluated = True
            self.save(self.last_path)  # a stop during this first evaluation has something to go on from, too
        if progress.unevaluated:
            self._evaluate(stop, line)
        while progress.epoch < epochs and not self._is_patience_over():
            batches = self._until_stopped(self._batches(), stop)
            train_one_epoch(self.learner, batches, progress, self.hardware, StepRecorder(self, line))
            if stop.signal_number is not None:
                self.save(self.last_path)
                raise Interrupted(stop.signal_number)
            progress.epoch, progress.batch = progress.epoch + 1, 0
            progress.unevaluated = plan.is_due(progress.epoch, epochs)
            self.save(self.last_path)
            if progress.unevaluated:
                self._evaluate(stop, line)

    def _batches(self) -> Iterator:
        """What is left of the epoch in progress."""
        batches = self.train_loader.epoch(self.progress.epoch, start_batch=self.progress.batch)
        return itertools.islice(batches, self.batches_per_epoch - self.progress.batch)

    def _until_stopped(self, batches: Iterator, stop: StopRequest) -> Iterator:
        """``batches`` up to the end of the optimizer step in which a stop is asked for."""
        for position, batch in enumerate(batches):
            if stop.signal_number is not None and position % self.hardware.accumulate == 0:
                return
            yield batch

    def _is_patience_over(self) -> bool:
        over = self.plan.patience is not None and self.progress.evaluations_without_gain >= self.plan.patience
        if over:
            log.info("stopped early: %d evaluations without a better AP", self.progress.evaluations_without_gain)
        return over

    def _evaluate(self, stop: StopRequest, line: ProgressLine) -> None:
        """Evaluate the average, record it, and save: the best weights first, then that this is done."""
        progress, started = self.progress, time.monotonic()
        trained = self.learner.model if self.learner.ema is None else self.learner.ema.module
        model = inference_form(trained, self.hardware)
        evaluator = CocoEvaluator(
            self.data.val_ground_truth(self.settings.overfit), self.classes.category_ids, backend=self.plan.backend
        )
        batches = line.track(unless_stopped(self.val_loader, stop), "evaluating", len(self.val_loader))
        try:
            evaluate(model, batches, evaluator, self.plan, self.hardware)
        except FloatingPointError as error:
            raise UserError("evaluation", str(error), "lower optim.lr, or use hardware.precision=fp32") from error
        metrics = evaluator.compute(only_seen=self.settings.limit_batches is not None)
        ap = 0.0 if math.isnan(metrics["AP"]) else metrics["AP"]
        progress.unevaluated = False
        is_better = ap > progress.best_ap
        progress.evaluations_without_gain = 0 if is_better else progress.evaluations_without_gain + 1
        self.record({f"val/{key}": metrics[key] for key in SUMMARY_KEYS} | {"val/seconds": time.monotonic() - started})
        self._draw(model)
        log.info(
            "epoch %d: AP %.4f, AP50 %.4f%s",
            progress.epoch, metrics["AP"], metrics["AP50"], " (best so far)" if is_better else "",
        )  # fmt: skip
        if is_better:
            progress.best_ap = ap
            self.save(self.best_path, with_optimizer=False)
        self.save(self.last_path)

    def _draw(self, model: nn.Module) -> None:
        """Validation pictures with what was found and what is there, for the loggers that show pictures."""
        if not self.loggers or not self.plan.pictures:
            return
        pictures = []
        dataset = self.data.val_dataset(self.settings.overfit)
        for index in range(min(self.plan.pictures, len(dataset))):
            image, target = dataset[index]
            height, width = image.shape[1:]
            # Drawn on the network's input, so the affine back to the file is left out.
            shown = target | {"affine": Affine(1.0, 1.0, 0.0, 0.0), "source_wh": (width, height)}
            (found,) = detect(model, image[None], [shown], self.plan, self.hardware)
            keep = found.scores >= DRAWN_SCORE
            true_xyxy = cxcywh_to_xyxy(target["boxes"]) * torch.tensor([width, height, width, height])
            pictures.append(
                draw_detections(
                    image.permute(1, 2, 0).numpy(), found.boxes_xyxy[keep].numpy(), found.labels[keep].numpy(),
                    found.scores[keep].numpy(), self.classes.names, (true_xyxy.numpy(), target["labels"].numpy()),
                )
            )  # fmt: skip
        for logger in self.loggers:
            logger.images(self.progress.step, "val", pictures)

    def record(self, values: dict[str, float]) -> None:
        """Write figures to ``metrics.jsonl`` and the loggers."""
        step, epoch = self.progress.step, self.progress.epoch + self.progress.batch / self.batches_per_epoch
        self.metrics_file.scalars(step, epoch, values)
        for logger in self.loggers:
            logger.scalars(step, epoch, values)

    def save(self, path: Path, *, with_optimizer: bool = True) -> None:
        """Write a checkpoint: everything that `restore` needs, or without the optimizer what evaluation needs."""
        learner = self.learner
        content = {
            "config": self.config,
            "classes": {"names": self.classes.names, "category_ids": self.classes.category_ids},
            "progress": self.progress.state_dict(),
            "model": learner.model.state_dict(),
            "ema": None
            if learner.ema is None
            else {"module": learner.ema.module.state_dict(), "n_averaged": learner.ema.n_averaged},
        }
        if with_optimizer:
            content |= {
                "optimizer": learner.optimizer.state_dict(),
                "scheduler": {"last_epoch": learner.scheduler.last_epoch, "steps_per_epoch": self.steps_per_epoch},
                "scaler": learner.scaler.state_dict(),
                "random": random_state(),
            }
        write_checkpoint(path, content)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of `save`.

        Raises:
            UserError: it holds no optimizer, other classes than the data, or part of an epoch of another length.
        """
        content = read_checkpoint(path)
        if "optimizer" not in content:
            raise UserError(str(path), "holds weights only", "resume from the run's folder, which has last.pt")
        check_classes(path, content["classes"], self.classes)
        learner = self.learner
        learner.model.load_state_dict(content["model"])
        if learner.ema is not None and content["ema"] is not None:
            learner.ema.module.load_state_dict(content["ema"]["module"])
            learner.ema.n_averaged.copy_(content["ema"]["n_averaged"])
        learner.optimizer.load_state_dict(content["optimizer"])
        learner.scaler.load_state_dict(content["scaler"])
        self.progress.__dict__.update(content["progress"])
        self._restore_schedule(path, content["scheduler"])
        self.metrics_file.truncate(self.progress.step)
        restore_random_state(content["random"])

    def _restore_schedule(self, path: Path, saved: dict[str, int]) -> None:
        """Take the schedule up where it was: its factor is a pure function of the step and of this run's length."""
        progress, scheduler = self.progress, self.learner.scheduler
        scheduler.last_epoch = saved["last_epoch"]
        if saved["steps_per_epoch"] != self.steps_per_epoch:
            if progress.batch:
                cause = f"stopped within an epoch of {saved['steps_per_epoch']} steps, which now has"
                raise UserError(str(path), f"{cause} {self.steps_per_epoch}", "go on with the same data and batches")
            # Another batch size: as many epochs are behind the schedule, however many steps they took.
            scheduler.last_epoch = progress.epoch * self.steps_per_epoch
            self.total_steps += progress.step - scheduler.last_epoch
        groups = self.learner.optimizer.param_groups
        for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base * factor(scheduler.last_epoch)
