"""Keys and passwords stay in the environment: no configuration, checkpoint or log of ours holds one."""

import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from neo_model.utils import UserError

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
# Shorter values are taken for settings; real keys are 20 characters and more.
SHORTEST_SECRET = 16


def secrets_in_environment() -> dict[str, str]:
    """Name and value of the environment's variables that hold secrets, judged by their names; not paths to files."""
    return {
        name: value
        for name, value in os.environ.items()
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET and not _is_path(value)
    }


def _is_path(value: str) -> bool:
    """Whether it is written as one and leads to something; one key in 64 begins with a slash."""
    return value.startswith(("/", "~", ".")) and os.path.exists(os.path.expanduser(value))


def redacted(text: str) -> str:
    """Text with the environment's secrets replaced by the names of their variables."""
    for name, value in secrets_in_environment().items():
        text = text.replace(value, f"${name}")
    return text


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
    """Takes the environment's secrets out of the messages of a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record's message and traceback if need be; it always passes."""
        message = record.getMessage()
        clean = redacted(message)
        if clean != message:
            record.msg, record.args = clean, ()
        if record.exc_info and not record.exc_text:
            # Formatters print this text instead of their own.
            record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
        return True
