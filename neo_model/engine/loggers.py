"""Where a run's figures go besides ``metrics.jsonl``: TensorBoard, and what every logger has in common.

A logger never ends a run: when its disk is full or its network is gone, it says so once and the training goes on.
TensorBoard and W&B are imported when a logger starts, since they take seconds.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from neo_model.engine.metrics_file import NOTHING_YET, Rewound, number_or_none

log = logging.getLogger(__name__)

COMPARED_FIGURES = ("val/AP", "val/AP50")
COMPARED_KEYS = (
    *("epochs", "seed", "model.", "optim.", "schedule.", "ema.", "data.name", "data.fit", "data.resolution."),
    *("data.augment.", "hardware.batch_size", "hardware.accumulate", "hardware.precision"),
)
HISTOGRAM_EDGES = np.linspace(0, 1, 21)

_report_thread_exception = threading.excepthook


class Logger:
    """One place more for figures and pictures; a failure switches it off with one warning."""

    name = "logger"

    def __init__(self) -> None:
        self._active = False

    def start(self, run_dir: str | Path, config: dict, resumed: Rewound | None = None) -> None:
        """Begin, or go on.

        Args:
            run_dir: the run's folder, which exists.
            config: the run's configuration in plain containers, shown beside the curves.
            resumed: which points of a resumed run stay: the logger brings its own to these; None for a new run.
        """
        self._active = True
        try:
            self._guarded(self._start, Path(run_dir), config, resumed)
        except BaseException:  # there is nothing to write to or to close
            self._active = False
            raise

    def scalars(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Record figures by name, such as ``train/loss``, at an optimizer step."""
        self._guarded(self._scalars, step, {"epoch": number_or_none(epoch)} | {k: float(v) for k, v in values.items()})

    def images(self, step: int, tag: str, images: list[np.ndarray]) -> None:
        """Record pictures, each uint8 [H, W, 3] RGB and of any size, under one name."""
        self._guarded(self._images, step, tag, images)

    def histograms(self, step: int, values: dict[str, np.ndarray]) -> None:
        """Record how values [n] of 0 to 1 are spread, by name; names without any are left out."""
        self._guarded(self._histograms, step, {name: found for name, found in values.items() if len(found)})

    def precision_curves(self, step: int, precisions: dict[str, np.ndarray]) -> None:
        """Record precision at recall 0, 0.01, ... 1 [101], by name."""
        self._guarded(self._precision_curves, step, precisions)

    def flush(self) -> None:
        """Write out what is waiting, if that can be asked for."""
        self._guarded(self._flush)

    def close(self) -> None:
        """Write out what is waiting; calling it twice does no harm."""
        self._guarded(self._close)
        self._active = False

    def _guarded(self, action, *arguments) -> None:
        if not self._active:
            return
        try:
            action(*arguments)
        except Exception as error:
            if not self._is_outside(error):
                raise
            self._active = False
            said = " ".join(str(error).split()) or type(error).__name__
            log.warning("%s is switched off for the rest of the run: %s", self.name, said)
            self._abandon()

    def _is_outside(self, error: Exception) -> bool:
        """Whether it is what the outside world may do to this logger; anything else is our mistake and is raised."""
        return isinstance(error, OSError)

    def _start(self, run_dir: Path, config: dict, resumed: Rewound | None) -> None:
        raise NotImplementedError

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        raise NotImplementedError

    def _images(self, step: int, tag: str, images: list[np.ndarray]) -> None:
        raise NotImplementedError

    def _histograms(self, step: int, values: dict[str, np.ndarray]) -> None:
        raise NotImplementedError

    def _precision_curves(self, step: int, precisions: dict[str, np.ndarray]) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        """Nothing waits unless a logger says so."""

    def _abandon(self) -> None:
        """Leave nothing behind that a later run in this process would meet; nothing is, unless a logger says so."""

    def _close(self) -> None:
        raise NotImplementedError


class TensorBoardLogger(Logger):
    """Event files in the run's ``tensorboard`` folder; a resumed run hides the points it is going to write again.

    It hides all points from a step on. So where an evaluation was recorded but not saved, and comes again, the spread
    of ``matched_iou`` at its step is lost; figures are taken from ``metrics.jsonl``. A skipped step right behind the
    checkpoint leaves the number of steps as it is, and is there twice.
    """

    name = "TensorBoard"

    def __init__(self) -> None:
        super().__init__()
        self._writer = None

    def _start(self, run_dir: Path, config: dict, resumed: Rewound | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _report_unless_from_tensorboard
        folder = run_dir / "tensorboard"
        _name_before_now(folder)
        # The reader drops what older event files say from this step on. A run that starts may not be the first to do so
        # in its folder: an earlier one may have been killed before its first checkpoint.
        first_step = (resumed or NOTHING_YET).first_step
        self._writer = SummaryWriter(str(folder), purge_step=first_step)
        for record in (resumed or NOTHING_YET).records():
            if record["step"] >= first_step:
                self._scalars(record["step"], figures_of(record))
        # Before `metrics.jsonl` is cut: a run killed in between finds there what it has to do once more.
        self._writer.flush()
        if resumed is None:
            self._writer.add_text("config", f"```\n{json.dumps(config, indent=2, default=str)}\n```")
            self._compare_by(hyperparameters(config))

    def _compare_by(self, values: dict[str, bool | int | float | str]) -> None:
        """Have the page HParams of a folder of runs show these values beside each run's AP."""
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(values, dict.fromkeys(COMPARED_FIGURES, 0.0)):
            self._writer.file_writer.add_summary(summary)

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def _images(self, step: int, tag: str, images: list[np.ndarray]) -> None:
        for position, image in enumerate(images):
            self._writer.file_writer.add_summary(_image_summary(f"{tag}/{position}", image), step)
        # Someone is waiting to see them; a picture comes once an epoch.
        self._writer.flush()

    def _histograms(self, step: int, values: dict[str, np.ndarray]) -> None:
        for name, found in values.items():
            self._writer.add_histogram(name, found, step, bins=HISTOGRAM_EDGES)

    def _precision_curves(self, step: int, precisions: dict[str, np.ndarray]) -> None:
        recall = np.linspace(1, 0, 101)  # the page wants it to fall, as thresholds rise
        for name, precision in precisions.items():
            # The page leaves points without detections away. How many there were is not kept: these are the numbers that
            # the precision implies for a hundred objects.
            precision = precision[::-1]
            right = np.where(precision > 0, np.round(100 * recall), 0)
            wrong = np.round(right * (1 / np.where(precision > 0, precision, 1) - 1))
            columns = [right, wrong, np.zeros_like(recall), 100 - right, precision, recall]
            self._writer.add_pr_curve_raw(name, *columns, global_step=step, num_thresholds=len(recall))

    def _flush(self) -> None:
        self._writer.flush()

    def _close(self) -> None:
        self._writer.close()


def figures_of(record: dict) -> dict[str, float]:
    """What a record of ``metrics.jsonl`` gave a logger; figures that are not finite are not in it."""
    return {name: value for name, value in record.items() if name != "step" and value is not None}


def hyperparameters(config: dict) -> dict[str, bool | int | float | str]:
    """What runs are compared by: the plain values of a configuration that decide what is learnt, by dotted key."""
    flat = dict(_flat(config))
    return {
        key: value
        for key, value in flat.items()
        if key.startswith(COMPARED_KEYS) and not key.endswith("_target_") and not str(value).startswith("${")
    }


def _flat(node: dict, prefix: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{name}", value


def _report_unless_from_tensorboard(arguments) -> None:
    """TensorBoard raises what its writing thread met in the calling thread too, where it is handled: once is enough."""
    if not type(arguments.thread).__module__.startswith("tensorboard."):
        _report_thread_exception(arguments)


def _name_before_now(folder: Path) -> None:
    """Rename event files that would come after one that is made now; TensorBoard reads them in the names' order.

    Names begin with the time in seconds, and the clock may have gone back since, or be that of another machine.
    """
    prefix = "events.out.tfevents."
    paths = sorted(folder.glob(f"{prefix}*"))
    if paths and paths[-1].name >= f"{prefix}{int(time.time()):010d}":
        for number, path in enumerate(paths):
            path.rename(folder / f"{prefix}{number:010d}.{path.name.removeprefix(prefix).partition('.')[2]}")


def _image_summary(tag: str, image: np.ndarray):
    """A picture as JPEG: the writer's own way is PNG, which at 1080p takes 3 MB each."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    height, width = image.shape[:2]
    content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.tobytes())
    return Summary(value=[Summary.Value(tag=tag, image=content)])
