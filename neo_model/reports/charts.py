"""How every picture looks: no display needed, colours for any colour vision, text that reads on a laptop."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito (2008).
BLUE, VERMILION, GREEN, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#767676"
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "text.parse_math": False,  # names of classes and keys may hold a dollar sign
}
DOTS_PER_INCH = 110


def figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches in our style; no window system is asked for."""
    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def subplots(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, list]:
    """A figure and its axes, row by row."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        return drawn, list(drawn.subplots(rows, columns, squeeze=False).flat)


def save(drawn: Figure, path: Path) -> None:
    """Write a PNG; whoever reads meanwhile sees the old one whole."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with matplotlib.rc_context(STYLE):
        drawn.savefig(unfinished, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    unfinished.replace(path)
