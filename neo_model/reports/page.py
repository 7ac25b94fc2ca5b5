"""Pages of HTML that hold all they need: style, scripts, data and pictures; nothing is fetched."""

import json
import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from neo_model.utils.files import write_whole
from neo_model.utils.secrets import redacted

PAGES = Path(__file__).parent / "pages"
DECIMALS = 4


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template in and write it; secrets of the environment, which a name may refer to, are left out.

    Args:
        path: the file.
        template: a file of neo_model/reports/pages.
        **values: its variables; ``content`` becomes JSON for the page's scripts.

    Raises:
        UserError: the disk refuses.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGES), autoescape=True, trim_blocks=True)
    values = _without_secrets(values)
    if "content" in values:
        values["content"] = json_for_page(values["content"])
    write_whole(path, environment.get_template(template).render(**values))


def json_for_page(content: Any) -> str:
    """JSON that no text within can break out of; NaN becomes null, numbers are rounded to four decimals."""
    text = json.dumps(_plain(content), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_secrets(key): _without_secrets(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(entry) for entry in value]
    return redacted(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return round(float(value), DECIMALS) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
