"""Messages to the person at the terminal."""

import sys
from contextlib import suppress

from neo_model.utils.errors import visible


def tell(text: str) -> None:
    """Print to stderr; where it cannot be written, to a full disk or a closed pipe, the work goes on."""
    with suppress(OSError):
        print(visible(text), file=sys.stderr, flush=True)
