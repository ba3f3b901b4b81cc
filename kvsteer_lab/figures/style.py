"""One look for all figures: the style sheet, a colour for each kind of intervention, widths, saving."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, ParamSpec
from weakref import WeakKeyDictionary

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from pandas.api.types import is_integer_dtype

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0
"""Widths in inches of one and of two columns of a paper."""

COLORS = {"baseline": "#7f7f7f", "prompt": "#0072b2", "steered": "#d55e00", "activation": "#009e73", "random": "#56b4e9"}
"""Okabe and Ito's palette: told apart by readers with colour-vision deficiency, and in grey."""

SHEET = str(files(__package__) / "style.mplstyle")

P = ParamSpec("P")
_PLOTTED: WeakKeyDictionary[Figure, pd.DataFrame] = WeakKeyDictionary()


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the style sheet, remember what it plots, and close its figure for pyplot, so that notebooks show it once.

    What it plots is its first argument where that is a table or a mapping of tables; a function of something else calls `attach` itself.
    """

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.style.context(SHEET):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        data = next(iter([*args, *kwargs.values()]), None)
        tables = data.values() if isinstance(data, Mapping) and data else [data]
        if figure not in _PLOTTED and all(isinstance(table, pd.DataFrame) for table in tables):
            attach(figure, data)
        return figure

    return wrapper


def attach(figure: Figure, data: pd.DataFrame | Mapping[Any, pd.DataFrame], names: Sequence[str] = ("key",)) -> Figure:
    """Remember what a figure plots, to be saved beside it.

    Args:
        figure: a figure.
        data: a tidy table, or several by a key; an index that says something becomes columns.
        names: what the columns are called that hold the keys; keys that are tuples have a name each.
    """
    if isinstance(data, pd.DataFrame):
        _PLOTTED[figure] = _flat(data)
    else:
        joined = pd.concat({key: _flat(table) for key, table in data.items()}, names=list(names))
        _PLOTTED[figure] = joined.reset_index(level=list(range(joined.index.nlevels - 1))).reset_index(drop=True)
    return figure


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    index = table.index
    counts_only = index.nlevels == 1 and index.name is None and is_integer_dtype(index.dtype)
    return table.reset_index(drop=counts_only)


def data_of(figure: Figure) -> pd.DataFrame | None:
    """What a figure plots, if it was remembered."""
    return _PLOTTED.get(figure)


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
