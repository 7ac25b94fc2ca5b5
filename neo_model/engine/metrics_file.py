"""``metrics.jsonl``: every figure of a run, a line a record."""

import json
import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from neo_model.utils import UserError
from neo_model.utils.files import is_there, refused_to_read

log = logging.getLogger(__name__)
ROUNDING = 1e-9  # of an epoch's fraction


class Rewound(NamedTuple):
    """Where loggers go on: their points from ``first_step`` on are void, but for these ``records`` of that step.

    An evaluation at one of the steps ``evaluated`` was recorded before the resume, and comes once more.
    """

    first_step: int
    records: list[dict]
    evaluated: frozenset[int] = frozenset()


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

    def rewind(self, step: int, epoch: float, *, unevaluated: bool = False) -> "Rewound":
        """Drop what is beyond a point and lines that are no JSON, so that a resumed run writes no point twice.

        The old file stays whole until the new one is.

        Args:
            step, epoch: the last to keep, as `scalars` was given them.
            unevaluated: whether the evaluation at this point is yet to come; then one that is there already goes.

        Returns:
            from which step on the other loggers must forget their points, which points of it stay, and which
            evaluations they have seen that are yet to come.

        Raises:
            UserError: the disk refuses; nothing is lost.
        """
        if not is_there(self.path):
            return Rewound(step + 1, [])
        kept, at_step, dropped_at_step, evaluated = [], [], False, set()
        for line in self._lines():
            record = _record_of(line)
            its_step, its_epoch = (record.get(key) for key in ("step", "epoch"))
            is_evaluation = any(name.startswith("val/") for name in record)
            # A skipped step leaves the number of steps as it is, but goes on in the epoch.
            if its_step is None or (its_step, its_epoch or 0.0) > (step, epoch + ROUNDING):
                dropped_at_step |= its_step == step
                evaluated |= {its_step} if is_evaluation else set()
            elif unevaluated and its_step == step and is_evaluation:
                dropped_at_step = True
                evaluated.add(its_step)
            else:
                kept.append(line)
                at_step += [record] if its_step == step else []
        self._replace(kept)
        first_step, records = (step, at_step) if dropped_at_step else (step + 1, [])
        return Rewound(first_step, records, frozenset(evaluated))

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
