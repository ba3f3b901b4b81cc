"""One look for all figures: the style sheet, a colour for each kind of intervention, widths, saving."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import ParamSpec

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..files import write_atomically

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0
"""Widths in inches of one and of two columns of a paper."""

COLORS = {"baseline": "#7f7f7f", "prompt": "#0072b2", "steered": "#d55e00", "activation": "#009e73", "random": "#56b4e9"}
"""Okabe and Ito's palette: told apart by readers with colour-vision deficiency, and in grey."""

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the style sheet and close its figure for pyplot, so that notebooks show it once."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.style.context(str(files(__package__) / "style.mplstyle")):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        return figure

    return wrapper


def color_of(label: str) -> str:
    """The colour of an intervention, by its label."""
    if any(kind in label for kind in ("random", "shuffle", "sign flip")):
        return COLORS["random"]
    if label in ("baseline", "no offset"):
        return COLORS["baseline"]
    if "activation" in label:
        return COLORS["activation"]
    words = ("CoT", "forced", "few-shot")
    return COLORS["prompt"] if (label.startswith(words) or "-shot " in label) and "steer" not in label else COLORS["steered"]


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, PDF or SVG, by the suffix; the same figure gives the same bytes.

    Raises:
        OSError: the path can't be written; an old file survives.
        ValueError: another suffix.
    """
    without_dates = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "ModDate": None}, ".svg": {"Date": None}}
    suffix = Path(path).suffix
    if suffix not in without_dates:
        raise ValueError(f"A figure is saved as .png, .pdf or .svg, not as {suffix or 'a file without a suffix'}.")
    with plt.style.context(str(files(__package__) / "style.mplstyle")):
        return write_atomically(path, lambda temporary: figure.savefig(temporary, metadata=without_dates[suffix]))
