"""Messages of a run: on the terminal at once, and in ``train.log`` as soon as there is a folder for it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from neo_model.config.secrets import REDACTING
from neo_model.engine.console import ConsoleHandler
from neo_model.utils import UserError
from neo_model.utils.messages import tell

log = logging.getLogger("neo_model")


@contextmanager
def run_log() -> Iterator[MemoryHandler]:
    """Messages of ours go to the terminal, and wait in the handler for a file to be set as its target."""
    console, file_log = ConsoleHandler(), MemoryHandler(capacity=1)
    log.setLevel(logging.INFO)
    for handler in (console, file_log):
        handler.addFilter(REDACTING)
        log.addHandler(handler)
    try:
        yield file_log
    except Exception as error:  # the terminal gets it from the caller, the file would not
        trace = None if isinstance(error, UserError) else sys.exc_info()
        file_log.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "stopped: %s", (error,), trace))
        raise
    finally:
        target = file_log.target
        for handler in (console, file_log):
            log.removeHandler(handler)
            handler.close()
        if target is not None:
            target.close()


class LogFile(logging.FileHandler):
    """A file of messages with times. When the disk refuses them, one warning says so on the terminal."""

    def __init__(self, path: Path) -> None:
        self._warned = False
        super().__init__(path, delay=True)  # opened by the first message, whose failure is dealt with below
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        try:
            super().emit(record)
        except OSError as error:
            self._warn(error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's name
        """A message that could not be written."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._warn(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        """Write out what is waiting."""
        try:
            super().close()
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            reason = error.strerror or error
            tell(f"warning: {self.baseFilename}: cannot be written ({reason}); the run goes on")
