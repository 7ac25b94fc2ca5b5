"""A training run: what `train_one_epoch` learns, written down. All side effects of training live here."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from neo_model.data import DetectionData, TrainLoader
from neo_model.data.workers import telling_of_lost_workers
from neo_model.engine.checkpoint import check_classes
from neo_model.engine.checkpoint_folder import CheckpointFolder
from neo_model.engine.circumstances import circumstances, compare
from neo_model.engine.console import ProgressLine
from neo_model.engine.evaluation_loop import EvaluationPlan, evaluate, inference_form
from neo_model.engine.hardware import Hardware
from neo_model.engine.loggers import Logger
from neo_model.engine.metrics_file import NOTHING_YET, MetricsFile
from neo_model.engine.progress import Interrupted, Progress, StopRequest, unless_stopped
from neo_model.engine.run_state import restore, telling_of_misfit, training_state, weights_state
from neo_model.engine.showing import Showing
from neo_model.engine.step_recorder import StepRecorder
from neo_model.engine.training_loop import NOT_FINITE_REMEDY, Learner, train_one_epoch
from neo_model.evaluation import SUMMARY_KEYS, CocoEvaluator
from neo_model.losses import Criterion
from neo_model.optim import AdamW, Ema, Schedule
from neo_model.utils import NonNegativeFloat, NonNegativeInt, PositiveInt, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long and on how much a run trains.

    Attributes:
        epochs: passes over the training images.
        overfit: evaluate on this many training images, those that the loader was told to train on; 0 is off.
        limit_batches: stop each epoch and each evaluation after this many batches.
        log_every: optimizer steps between two records.
        save_minutes: between two checkpoints within an epoch, at the next step's end; 0 saves after every step.
        keep: checkpoints to go on from, the newest and those before it.
    """

    epochs: PositiveInt
    overfit: NonNegativeInt = 0
    limit_batches: PositiveInt | None = None
    log_every: PositiveInt = 10
    save_minutes: NonNegativeFloat = 10.0
    keep: PositiveInt = 2


class Runner:
    """Trains, evaluates, records and saves one run in ``run_dir``.

    Args:
        model, criterion: on any device; they are moved to the hardware's.
        data: prepared data set.
        train_loader: its training batches; the run ends it.
        optim, schedule, ema: what `build` makes the optimizer, the scheduler and the average.
        plan: when and how to evaluate.
        loggers: besides the console and ``metrics.jsonl``.
        hardware: device, precision, batch; its backends were set before the model was made.
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
        train_loader: TrainLoader,
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
        self.data, self.train_loader = data, train_loader
        self.plan, self.hardware, self.settings = plan, hardware, settings
        self.run_dir, self.config, self.classes = run_dir, config, data.classes
        self.progress = Progress()
        self.checkpoints = CheckpointFolder(run_dir, settings.keep)
        self.metrics_file, self.loggers = MetricsFile(run_dir), loggers
        self.showing = Showing(self)
        self._is_resumed = False
        self._circumstances = circumstances(data, hardware)
        self._saved_at, self._saved_progress = time.monotonic(), None
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

    def run(self) -> float:
        """Train to the end.

        Returns:
            the best validation AP.

        Raises:
            Interrupted: Ctrl-C or SIGTERM, after the checkpoint, or after the error that kept it from being written.
            UserError: training diverged, an image cannot be used, or the disk is full.
        """
        self.checkpoints.remove_temporaries()
        with StopRequest() as stop:
            try:
                with telling_of_lost_workers():
                    self._train_with_loggers(stop)
            except Exception as error:
                if stop.signal_number is None:
                    raise
                is_crash = not isinstance(error, UserError)
                is_saved = self._saved_progress == self.progress.state_dict()
                left = "" if is_saved else "; the stop left no new checkpoint"
                log.error("error: %s%s", error, left, exc_info=is_crash)
            if stop.signal_number is not None:  # also too late to cut the last evaluation short: no other job may start
                raise Interrupted(stop.signal_number)
        return max(self.progress.best_ap, 0.0)

    def _train_with_loggers(self, stop: StopRequest) -> None:
        try:
            self._start_loggers()
            with ProgressLine(self.total_steps, self.progress.step) as line:
                self._train(stop, line)
        finally:
            self.train_loader.close()
            for logger in self.loggers:
                logger.close()

    def _start_loggers(self) -> None:
        """Have all records end where the run goes on; the loggers' first, by what ``metrics.jsonl`` has been so far."""
        progress, metrics_file = self.progress, self.metrics_file
        if not self._is_resumed:
            rewound = NOTHING_YET  # also where an earlier start was killed before its first checkpoint
        else:
            at = (progress.step, self._epochs_done())
            rewound = metrics_file.rewound(*at, unevaluated=progress.unevaluated)
            # With fewer epochs than before, the last may not have been one to evaluate after.
            is_over = progress.epoch >= self.settings.epochs
            progress.unevaluated |= is_over and not rewound.is_evaluated_at(progress.step)
        for logger in self.loggers:
            logger.start(self.run_dir, self.config, rewound if self._is_resumed else None)
        metrics_file.keep(rewound)

    def _train(self, stop: StopRequest, line: ProgressLine) -> None:
        progress, plan, epochs = self.progress, self.plan, self.settings.epochs
        if plan.at_start and progress.step == 0 and not self._is_resumed:
            progress.unevaluated = True
            self.save()  # a stop during this first evaluation has something to go on from, too
        if progress.unevaluated:
            self._evaluate(stop, line)
        self._saved_at = time.monotonic()
        while progress.epoch < epochs and not self._is_patience_over():
            self._train_epoch(stop, line)
            progress.epoch, progress.batch = progress.epoch + 1, 0
            progress.unevaluated = plan.is_due(progress.epoch, epochs)
            self.save()
            if progress.unevaluated:
                self._evaluate(stop, line)

    def _train_epoch(self, stop: StopRequest, line: ProgressLine) -> None:
        """What is left of the epoch in progress, in pieces between which the state is saved."""
        progress, recorder = self.progress, StepRecorder(self, line)
        self.hardware.set_cudnn_benchmark(one_size=self.train_loader.has_one_size(progress.epoch))
        batches = recorder.waiting_for(self._batches())
        while progress.batch < self.batches_per_epoch:
            piece = self.until_due(batches, stop)
            train_one_epoch(self.learner, piece, progress, self.hardware, recorder)
            if progress.batch >= self.batches_per_epoch:
                self.showing.matches()  # before a stop at this very step, after which nobody knows them
            if stop.signal_number is not None:
                self.save()
                raise Interrupted(stop.signal_number)
            asked = stop.save_asked
            if asked:
                stop.save_asked = False  # now: a wish that comes while this one is granted is another one
            if asked or (self._is_save_due(stop) and progress.batch < self.batches_per_epoch):
                self.save()
            if asked:
                log.info("saved %s at step %d", self.checkpoints.last, progress.step)

    def _batches(self) -> Iterator:
        """What is left of the epoch in progress."""
        batches = self.train_loader.epoch(self.progress.epoch, start_batch=self.progress.batch)
        return self.showing.first_of(itertools.islice(batches, self.batches_per_epoch - self.progress.batch))

    def until_due(self, batches: Iterator, stop: StopRequest) -> Iterator:
        """``batches`` up to the end of the optimizer step in which a stop is asked for or a checkpoint is due."""
        accumulate = self.hardware.accumulate
        for position, batch in enumerate(batches):
            if stop.signal_number is not None and position % accumulate == 0:
                return  # without this batch, for which the loader may have been waited for
            yield batch
            if (position + 1) % accumulate == 0 and self._is_save_due(stop):
                return

    def _is_save_due(self, stop: StopRequest) -> bool:
        if stop.signal_number is not None or stop.save_asked:
            return True
        return time.monotonic() - self._saved_at >= 60 * self.settings.save_minutes

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
        self.hardware.set_cudnn_benchmark(one_size=True)  # until the next epoch says otherwise
        evaluator = CocoEvaluator(
            self.data.val_ground_truth(self.settings.overfit), self.classes.category_ids, backend=self.plan.backend
        )
        batches = line.track(unless_stopped(self.val_loader, stop), "evaluating", len(self.val_loader))
        try:
            evaluate(model, batches, evaluator, self.plan, self.hardware)
        except FloatingPointError as error:
            raise UserError("evaluation", str(error), NOT_FINITE_REMEDY) from error
        metrics = evaluator.compute(only_seen=self.settings.limit_batches is not None)
        ap = 0.0 if math.isnan(metrics["AP"]) else metrics["AP"]
        progress.unevaluated = False
        is_better = ap > progress.best_ap
        progress.evaluations_without_gain = 0 if is_better else progress.evaluations_without_gain + 1
        self.record({f"val/{key}": metrics[key] for key in SUMMARY_KEYS} | {"val/seconds": time.monotonic() - started})
        self.showing.evaluation(evaluator, metrics, model, self._epochs_done())
        log.info(
            "epoch %d: AP %.4f, AP50 %.4f%s",
            progress.epoch, metrics["AP"], metrics["AP50"], " (best so far)" if is_better else "",
        )  # fmt: skip
        if is_better:
            progress.best_ap = ap
            self.checkpoints.save_best(self._weights())
        self.save()

    def record(self, values: dict[str, float]) -> None:
        """Write figures to ``metrics.jsonl`` and the loggers."""
        step, epoch = self.progress.step, self._epochs_done()
        self.metrics_file.scalars(step, epoch, values)
        for logger in self.loggers:
            logger.scalars(step, epoch, values)

    def _epochs_done(self) -> float:
        return self.progress.epoch + self.progress.batch / self.batches_per_epoch

    def save(self) -> None:
        """Write everything that `restore` needs to the run's ``last.pt``; the loggers' points so far come first.

        Raises:
            UserError: the disk refuses; the checkpoints so far are still there.
        """
        self.metrics_file.flush()
        for logger in self.loggers:
            logger.flush()
        state = training_state(self.learner, self.steps_per_epoch)
        beside = {"circumstances": self._circumstances, "bad_images": self.train_loader.bad_images()}
        self.checkpoints.save_last(self._weights() | state | beside)
        self._saved_at, self._saved_progress = time.monotonic(), self.progress.state_dict()

    def _weights(self) -> dict:
        """What evaluation needs, of the present state."""
        classes = {"names": self.classes.names, "category_ids": self.classes.category_ids}
        about = {"config": self.config, "classes": classes, "progress": self.progress.state_dict()}
        return about | weights_state(self.learner)

    def restore(self, check: Callable[[dict], None] = lambda content: None) -> None:
        """Go on from the newest whole checkpoint in the run's folder, once ``check`` has let its content pass.

        Raises:
            UserError: there is none, it holds no optimizer, other classes or data than the run's, or part of an epoch
                of another length.
        """
        path, content, passed_over = self.checkpoints.newest()
        for error in passed_over:
            log.warning("%s %s; going on from %s", error.where, error.cause, path)
        check(content)
        check_classes(path, content["classes"], self.classes)
        if "circumstances" in content:
            with telling_of_misfit(path, "circumstances"):
                compare(path, content["circumstances"], self._circumstances)
        progress, scheduler = self.progress, self.learner.scheduler
        restore(path, content, self.learner, progress, self.steps_per_epoch)
        with telling_of_misfit(path, "progress"):
            if progress.batch > self.batches_per_epoch:
                raise ValueError(f"batch {progress.batch} of an epoch of {self.batches_per_epoch}")
        with telling_of_misfit(path, "bad_images"):
            self.train_loader.restore_bad_images(content.get("bad_images", []))  # checkpoints of old have none
        if scheduler.last_epoch != content["scheduler"]["last_epoch"]:
            self.total_steps += progress.step - scheduler.last_epoch
        self._is_resumed = True
