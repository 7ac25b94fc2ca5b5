"""Keys and passwords of the environment: which they are, and texts without them."""

import json
import os
import re

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
    """Text with the environment's secrets replaced by the names of their variables.

    YAML and JSON write some characters another way, and YAML breaks lines at spaces: a secret that has them is found in
    texts of these, too.
    """
    for name, value in secrets_in_environment().items():
        quoted = (json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
        for written in (value, value.replace("'", "''"), *quoted):
            if written in text:
                text = text.replace(written, f"${name}")
            elif " " in written:
                # Within quotes a broken line ends with a backslash, and the next begins with one.
                pattern = r"\\?\s+(?:\\ )?".join(map(re.escape, written.split()))
                text = re.sub(pattern, f"${name}", text)
    return text
