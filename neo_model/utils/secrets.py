"""Keys and passwords of the environment: which they are, and texts without them."""

import functools
import json
import os
import re

import yaml

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
# Shorter values are taken for settings; real keys are 20 characters and more.
SHORTEST_SECRET = 16
# Of a line in double quotes, which YAML may put behind any escape.
BREAK = r"(?:\\\n\s*\\?)?"


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
    """Text with the environment's secrets, also as YAML and JSON write them, replaced by their variables' names."""
    for name, value in secrets_in_environment().items():
        text = _as_written(value).sub(f"${name}", text)
    return text


@functools.cache
def _as_written(value: str) -> re.Pattern:
    """Finds a text as it is and as YAML and JSON write it: with escapes, and in YAML broken into lines."""
    return re.compile(BREAK.join(map(_forms, value)))


def _forms(character: str) -> str:
    if character == " ":
        return r"\s+"  # where a line may be broken without quotes
    written = {character, json.dumps(character)[1:-1], yaml.dump(character, default_style='"').strip()[1:-1]}
    return "(?:" + "|".join(map(re.escape, written | ({"''"} if character == "'" else set()))) + ")"
