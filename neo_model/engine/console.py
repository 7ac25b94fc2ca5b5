"""What a run shows while it runs: one live line on a terminal, a plain line now and then anywhere else."""

import logging
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

# Figures on the line, in this order; what else a caller passes is for the records, not for the eye.
COLUMNS = {
    "loss": "loss {:6.3f}",
    "lr": "lr {:.1e}",
    "images_per_second": "{:5.1f} images/s",
    "memory_gib": "{:4.1f} GiB",
    "data_wait_percent": "{:2.0f} % wait",
    "gradient_norm": "norm {:5.1f}",
    "loss_vfl": "vfl {:5.3f}",
    "loss_bbox": "box {:5.3f}",
    "loss_giou": "giou {:5.3f}",
}
REFRESH_SECONDS = 0.2
BAR_WIDTH = 16


class ProgressLine:
    """Where a run stands: epoch, step, time left, loss, learning rate, images/s, memory, the share of the time that it
    waited for data, gradient norm, and the weighted loss terms of the last decoder layer.

    On a terminal it is one line that stays at the bottom; `ConsoleHandler` writes messages above it. Elsewhere (a log
    file, a pipe) a plain line is printed for the first figures, every ``every_seconds`` and at the end. Use it in a
    ``with`` statement.

    Args:
        total: steps of the whole run.
        start: steps that an earlier process of this run has done.
        unit: what is counted.
        every_seconds: between plain lines.
        stream: where to write, standard error by default.
        visible: False writes nothing at all, for all but one of several processes.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        *,
        unit: str = "step",
        every_seconds: float = 10.0,
        stream: TextIO | None = None,
        visible: bool = True,
    ) -> None:
        self._total, self._done, self._start, self._unit = total, start, start, unit
        self._stream = sys.stderr if stream is None else stream
        self._visible, self._every_seconds = visible, every_seconds
        self._epoch, self._figures, self._note = "", {}, ""
        self._began = time.monotonic()
        self._shown_at = -float("inf")
        self._bar = None
        if visible and self._stream.isatty():
            # A terminal that says it has no rows (a container's) is taken for one of 80 x 24; tqdm would write nothing.
            columns, rows = shutil.get_terminal_size()
            self._bar = tqdm(
                total=total, initial=start, file=self._stream, ncols=columns, nrows=rows, bar_format="{desc}"
            )

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def advance(self, *, epoch: str = "", **figures: float) -> None:
        """One more step.

        Args:
            epoch: such as "3/72".
            figures: any of ``COLUMNS``; without figures the last ones stay. Other names are not shown.
        """
        is_first = not self._figures
        self._done += 1
        self._note = ""
        self._epoch = epoch or self._epoch
        self._figures.update({name: value for name, value in figures.items() if name in COLUMNS})
        if self._bar is not None:
            self._show(every_seconds=REFRESH_SECONDS)
        else:
            is_worth_it = (is_first and self._figures) or self._done == self._total
            self._show(every_seconds=0.0 if is_worth_it else self._every_seconds)

    def track(self, items: Iterable[Item], text: str, total: int) -> Iterator[Item]:
        """Pass ``items`` on and count them beside ``text``, such as "evaluating"."""
        for number, item in enumerate(items, start=1):
            self._note = f"{text} {number}/{total}"
            self._show(every_seconds=REFRESH_SECONDS if self._bar is not None else self._every_seconds)
            yield item

    def close(self) -> None:
        """Show the last state and leave the line."""
        if self._bar is not None:
            self._note = ""
            self._show(every_seconds=0.0)
            self._bar.close()
            self._bar = None
        self._visible = False

    def _show(self, every_seconds: float) -> None:
        """Write the line unless that was done less than ``every_seconds`` ago."""
        now = time.monotonic()
        if not self._visible or now - self._shown_at < every_seconds:
            return
        self._shown_at = now
        try:
            self._write(self._text(now))
        except OSError:  # a full disk or a closed pipe: no reason to stop
            self._visible, self._bar = False, None

    def _write(self, text: str) -> None:
        if self._bar is None:
            print(text, file=self._stream, flush=True)
            return
        self._bar.ncols = columns = shutil.get_terminal_size().columns
        if len(text) > columns:
            text = text.replace("epoch ", "").replace(f"{self._unit} ", "")
        width = min(BAR_WIDTH, columns - len(text) - len("100% || "))
        bar = f"{{percentage:3.0f}}% |{{bar:{width}}}| " if width > 0 else ""
        self._bar.bar_format = bar + "{desc}"
        self._bar.n = self._done
        self._bar.set_description_str(text)

    def _text(self, now: float) -> str:
        """The line without its bar; what matters most comes first, for a narrow terminal cuts the end off."""
        parts = [f"epoch {self._epoch}"] if self._epoch else []
        parts.append(f"{self._unit} {self._done:{len(str(self._total))}d}/{self._total}")
        steps = self._done - self._start
        if steps > 0 and self._done < self._total:
            # Over the whole run so far, evaluations included: they will come again.
            parts.append(f"{duration((now - self._began) / steps * (self._total - self._done))} left")
        parts += [COLUMNS[name].format(self._figures[name]) for name in COLUMNS if name in self._figures]
        return "  ".join(parts[:2] + [self._note] if self._note else parts)


class ConsoleHandler(logging.StreamHandler):
    """Log records on the terminal, above a `ProgressLine` if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def duration(seconds: float) -> str:
    """Seconds as hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
