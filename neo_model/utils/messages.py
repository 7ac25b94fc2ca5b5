"""Messages to the person at the terminal."""

import sys
from contextlib import suppress


def tell(text: str) -> None:
    """Print to stderr; where it cannot be written, to a full disk or a closed pipe, the work goes on."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
