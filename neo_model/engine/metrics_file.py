"""``metrics.jsonl``: every figure of a run, a line a record."""

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from neo_model.utils import UserError
from neo_model.utils.files import is_there, refused_to_read

log = logging.getLogger(__name__)
ROUNDING = 1e-9  # of an epoch's fraction


class Rewound(NamedTuple):
    """Where loggers go on.

    Attributes:
        first_step: their points from this step on are void, and come again or are among the records.
        lines: all of ``metrics.jsonl`` that stays.
    """

    first_step: int
    lines: list[str]

    def records(self) -> Iterator[dict]:
        """What the lines say."""
        return map(json.loads, self.lines)

    def is_evaluated_at(self, step: int) -> bool:
        """Whether an evaluation at this step stays."""
        return any(record["step"] == step and _is_evaluation(record) for record in self.records())


NOTHING_YET = Rewound(0, [])


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
        # A process killed while writing leaves half a line, and a disk may take a part of one.
        self._may_be_broken = True

    def rewound(self, step: int, epoch: float, *, unevaluated: bool = False) -> Rewound:
        """What stays of the file where a run goes on at a point: nothing beyond it, and no line that is no JSON.

        The file itself is left as it is: see `keep`.

        Args:
            step, epoch: the last to keep, as `scalars` was given them.
            unevaluated: whether the evaluation at this point is yet to come; then one that is there already goes.

        Raises:
            UserError: the file may not be read.
        """
        kept, first_step = [], step + 1
        for line in self._lines() if is_there(self.path) else []:
            record = _record_of(line)
            its_step, its_epoch = (record.get(key) for key in ("step", "epoch"))
            is_evaluation_here = its_step == step and _is_evaluation(record)
            # A skipped step leaves the number of steps as it is, but goes on in the epoch.
            is_beyond = its_step is None or (its_step, its_epoch or 0.0) > (step, epoch + ROUNDING)
            if not is_beyond and not (unevaluated and is_evaluation_here):
                kept.append(line)
            elif is_evaluation_here:
                first_step = step
        return Rewound(first_step, kept)

    def keep(self, rewound: Rewound) -> None:
        """Drop all else, so that a resumed run writes no point twice. The old file stays whole until the new one is.

        Raises:
            UserError: the disk refuses; nothing is lost.
        """
        if is_there(self.path):
            self._replace(rewound.lines)

    def _lines(self) -> list[str]:
        try:
            # A byte that is no text breaks its own line only.
            return self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise refused_to_read(self.path, error) from error

    def _replace(self, lines: list[str]) -> None:
        temporary = self.path.with_suffix(".tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            cause = f"cannot be written ({error.strerror or error})"
            raise UserError(str(self.path), cause, "make room and resume again") from error
        self._may_be_broken = False

    def flush(self) -> None:
        """Have the disk itself hold all lines."""
        try:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            pass  # there is no line yet, or its writing has been warned of
        except OSError as error:
            self._warn(error)

    def scalars(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Append one line.

        Args:
            step: optimizer steps so far.
            epoch: epochs so far.
            values: figures by name, such as ``train/loss`` or ``val/AP``.
        """
        numbers = {name: number_or_none(value) for name, value in {"step": step, "epoch": epoch, **values}.items()}
        line = json.dumps(numbers, allow_nan=False) + "\n"
        try:
            # Opened anew each time: a handle kept open would hold unwritten bytes back after a full disk.
            with self.path.open("a") as file:
                # The next line must not be glued to half a one.
                is_broken = self._may_be_broken and _last_byte(self.path) != b"\n"
                file.write("\n" + line if is_broken else line)
            self._may_be_broken = False
        except OSError as error:
            self._may_be_broken = True
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s: cannot be written (%s); the run goes on, figures are lost meanwhile", self.path, error)


def _is_evaluation(record: dict) -> bool:
    return any(name.startswith("val/") for name in record)


def number_or_none(value) -> float | int | None:
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


def _record_of(line: str) -> dict:
    """The content of a line; empty when it is broken."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    is_one = isinstance(record, dict) and all(
        isinstance(record.get(name), int | float | None) for name in ("step", "epoch")
    )
    return record if is_one else {}
