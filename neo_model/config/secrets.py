"""Keys and passwords stay in the environment: no configuration, checkpoint or log of ours holds one."""

import logging
from collections.abc import Iterator
from typing import Any

from neo_model.utils import UserError
from neo_model.utils.errors import visible
from neo_model.utils.secrets import redacted, secrets_in_environment


def secrets_in(plain: Any, key: str = "") -> Iterator[UserError]:
    """An error for each text of a plain, unresolved configuration that spells out a secret of the environment."""
    if isinstance(plain, dict):
        for name, value in plain.items():
            yield from secrets_in(value, f"{key}.{name}" if key else str(name))
    elif isinstance(plain, list):
        for index, value in enumerate(plain):
            yield from secrets_in(value, f"{key}[{index}]")
    elif isinstance(plain, str):
        for name, value in secrets_in_environment().items():
            if value in plain:
                remedy = f"leave it out, what needs it reads ${name} from the environment"
                yield UserError(key, f"holds the value of ${name}, which would be written to files", remedy)


class RedactingFilter(logging.Filter):
    """Takes the environment's secrets out of a handler's messages, and what a terminal would obey.

    Names of tensors, classes and data sets are a stranger's words.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record's message and traceback if need be; it always passes."""
        message = record.getMessage()
        clean = visible(redacted(message))
        if clean != message:
            record.msg, record.args = clean, ()
        if record.exc_info and not record.exc_text:
            # Formatters print this text instead of their own.
            record.exc_text = visible(redacted(logging.Formatter().formatException(record.exc_info)))
        return True


REDACTING = RedactingFilter()


def filter_warnings() -> None:
    """Have the warnings of commands without a log, which Python prints itself, pass the filter, too."""
    logging.lastResort.addFilter(REDACTING)  # once, however often it is asked to
