"""Where a run's figures go: ``metrics.jsonl`` always, TensorBoard and Weights & Biases when chosen.

A logger never ends a run: when its disk is full or its network is gone, it says so once and the training goes on.
TensorBoard and W&B are imported at ``start``, since they take seconds.
"""

import json
import logging
import math
import os
import secrets
import threading
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

log = logging.getLogger(__name__)
_report_thread_exception = threading.excepthook


class MetricsFile:
    """``metrics.jsonl`` in the run's folder: a JSON object a line, {"step": ..., "epoch": ..., name: value, ...}.

    Every line is on its way to the disk when ``scalars`` returns. NaN and infinity are written as null. An existing
    file is continued. When the disk is full, one warning is logged and later lines are tried again.

    Args:
        run_dir: the run's folder, which exists.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / "metrics.jsonl"
        self._warned = False
        # A process killed while writing leaves half a line; the next one must not be glued to it.
        self._broken_line = self.path.exists() and _last_byte(self.path) != b"\n"

    def truncate(self, step: int) -> None:
        """Drop what is beyond ``step`` and lines that are no JSON, so that a resumed run writes no point twice.

        The old file stays whole until the new one is.
        """
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w") as file:
            file.writelines(f"{line}\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self._broken_line = False

    def scalars(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Append one line.

        Args:
            step: optimizer steps so far.
            epoch: epochs so far.
            values: figures by name, such as ``train/loss`` or ``val/AP``.
        """
        numbers = {name: _number(value) for name, value in {"step": step, "epoch": epoch, **values}.items()}
        line = json.dumps(numbers, allow_nan=False) + "\n"
        try:
            # Opened anew each time: a handle kept open would hold unwritten bytes back after a full disk.
            with self.path.open("a") as file:
                file.write("\n" + line if self._broken_line else line)
            self._broken_line = False
        except OSError as error:
            self._broken_line = True
            if not self._warned:
                log.warning("%s: cannot be written (%s); the run goes on, figures are lost meanwhile", self.path, error)
                self._warned = True


class Logger:
    """One place more for figures and pictures; a failure switches it off with one warning."""

    name = "logger"

    def __init__(self) -> None:
        self._active = False

    def start(self, run_dir: str | Path, config: dict, resume_step: int | None = None) -> None:
        """Begin, or go on after ``resume_step``.

        Args:
            run_dir: the run's folder, which exists.
            config: the run's configuration in plain containers, shown beside the curves.
            resume_step: the last step that a resumed run keeps; None for a new run.
        """
        self._active = True
        self._guarded(self._start, Path(run_dir), config, resume_step)

    def scalars(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Record figures by name, such as ``train/loss``, at an optimizer step."""
        self._guarded(self._scalars, step, {"epoch": _number(epoch)} | {k: float(v) for k, v in values.items()})

    def images(self, step: int, tag: str, images: list[np.ndarray]) -> None:
        """Record pictures, each uint8 [H, W, 3] RGB and of any size, under one name."""
        self._guarded(self._images, step, tag, images)

    def close(self) -> None:
        """Write out what is waiting; calling it twice does no harm."""
        self._guarded(self._close)
        self._active = False

    def _guarded(self, action, *arguments) -> None:
        if not self._active:
            return
        try:
            action(*arguments)
        except self._failures() as error:
            self._active = False
            log.warning("%s is switched off for the rest of the run: %s", self.name, " ".join(str(error).split()))

    def _failures(self) -> tuple[type[Exception], ...]:
        """What the outside world may do to this logger; anything else is our mistake and is raised."""
        return (OSError,)

    def _start(self, run_dir: Path, config: dict, resume_step: int | None) -> None:
        raise NotImplementedError

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        raise NotImplementedError

    def _images(self, step: int, tag: str, images: list[np.ndarray]) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class TensorBoardLogger(Logger):
    """Event files in the run's ``tensorboard`` folder; a resumed run hides the points it is going to write again."""

    name = "TensorBoard"

    def __init__(self) -> None:
        super().__init__()
        self._writer = None

    def _start(self, run_dir: Path, config: dict, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _report_unless_from_tensorboard
        # The reader drops what older event files say from this step on.
        purge_step = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step)
        if resume_step is None:
            self._writer.add_text("config", f"```\n{json.dumps(config, indent=2, default=str)}\n```")

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def _images(self, step: int, tag: str, images: list[np.ndarray]) -> None:
        for position, image in enumerate(images):
            self._writer.file_writer.add_summary(_image_summary(f"{tag}/{position}", image), step)
        # Someone is waiting to see them; a picture comes once an epoch.
        self._writer.flush()

    def _close(self) -> None:
        self._writer.close()


class WandbLogger(Logger):
    """A Weights & Biases run; its id is kept in ``wandb_id.txt``, so that a resumed run continues the same curves.

    The API key comes from the environment (``WANDB_API_KEY``) or ``wandb login``, never from a configuration.

    Args:
        project: name of the W&B project.
        mode: online, offline (``wandb sync`` uploads it later) or disabled; the variable ``WANDB_MODE`` is obeyed when
            it is set, for machines without a network.
    """

    name = "W&B"

    def __init__(self, *, project: str, mode: Literal["online", "offline", "disabled"] = "online") -> None:
        super().__init__()
        self._project, self._mode = project, os.environ.get("WANDB_MODE", mode)
        self._run = None

    def _failures(self) -> tuple[type[Exception], ...]:
        import wandb

        return OSError, wandb.Error

    def _start(self, run_dir: Path, config: dict, resume_step: int | None) -> None:
        import wandb

        id_file = run_dir / "wandb_id.txt"
        if resume_step is None or not id_file.exists():
            id_file.write_text(secrets.token_hex(6))
        self._run = wandb.init(
            project=self._project,
            mode=self._mode,
            dir=str(run_dir),
            id=id_file.read_text().strip(),
            resume="allow",
            name=run_dir.name,
            config=config,
            # Its own lines and its copy of the terminal would tear the progress bar.
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def _images(self, step: int, tag: str, images: list[np.ndarray]) -> None:
        import wandb

        self._run.log({tag: [wandb.Image(image, file_type="jpg") for image in images]}, step=step)

    def _close(self) -> None:
        self._run.finish()


def _report_unless_from_tensorboard(arguments) -> None:
    """TensorBoard raises what its writing thread met in the calling thread too, where it is handled: once is enough."""
    if not type(arguments.thread).__module__.startswith("tensorboard."):
        _report_thread_exception(arguments)


def _image_summary(tag: str, image: np.ndarray):
    """A picture as JPEG: the writer's own way is PNG, which at 1080p takes 3 MB each."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    height, width = image.shape[:2]
    content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.tobytes())
    return Summary(value=[Summary.Value(tag=tag, image=content)])


def _number(value) -> float | int | None:
    """A number of Python, numpy or torch as Python's; None when it is not finite."""
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _last_byte(path: Path) -> bytes:
    """The last byte of a file; a line end for an empty one."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return b"\n"
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _step_of(line: str) -> float:
    """The step of a line; infinity when it is broken."""
    try:
        record = json.loads(line)
    except ValueError:
        return math.inf
    return record.get("step", math.inf) if isinstance(record, dict) else math.inf
