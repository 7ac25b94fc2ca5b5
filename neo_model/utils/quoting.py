"""Text in the words of a command line."""

import re
import shlex


def quoted(text: str) -> str:
    """Text as a string of Hydra's override grammar."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def typed(key: str, value: object) -> str:
    """KEY=VALUE to be pasted into a shell: quoted, for Hydra and for the shell, where the value has odd characters."""
    if re.fullmatch(r"[\w./:@%+-]+", str(value), re.ASCII):
        return f"{key}={value}"
    return shlex.quote(f"{key}={quoted(str(value))}")
