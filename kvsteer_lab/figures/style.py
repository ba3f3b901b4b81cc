"""One look for all figures: the style sheet, a colour for each kind of intervention, widths, saving."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, ParamSpec
from weakref import WeakKeyDictionary

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from pandas.api.types import is_integer_dtype
from pandas.api.typing import DataFrameGroupBy

from .._util.terms import label_name
from .._util.text import for_figure

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0
"""Widths in inches of one and of two columns of a paper."""

COLORS = {
    "baseline": "#7f7f7f",
    "prompt": "#0072b2",
    "steered": "#d55e00",
    "activation": "#009e73",
    "random": "#56b4e9",
}
"""Okabe and Ito's palette: told apart by readers with colour-vision deficiency. In grey they are not: there labels,
markers and lines must do it.
"""

PARTS = {"keys": "#7b3294", "values": "#c9a400"}
"""What is edited: keys or values."""

STYLES = {
    "direct": "#332288",
    "strategy_execution": "#6b8e23",
    "stepwise": "#cc3377",
    "causal_chain": "#8c564b",
    "annotated_deduction": "#17606e",
    "analogical": "#f4a6c8",
    "other": "#000000",
}
"""The style of a text. No colour of these three tables means two things: orange is cache steering and nothing else."""

SIDES = {"positive": "#3f3f3f", "negative": "#c4c4c4"}
"""The sides of a contrastive pair: they belong to no intervention, so they are greys."""

CHANGES = {"likelier": "#4466ff", "less likely": "#986800"}
"""What steering did to a token's probability, in the explorer's texts. Blue against yellow: told apart with any common
colour-vision deficiency, behind dark letters as behind light ones.
"""

AMOUNT = "cividis"
"""The colour map of every amount: read in grey, and by readers with colour-vision deficiency. The explorer's heat maps
have it, too.
"""

_KINDS = {
    "random": (
        r"(\d+ )?(random|(label|layer) shuffle|sign flip|other slot|other vectors)( \d+)?( (vectors|control))*("
        r" (for|of)\b.*)?"
        r"|(slot|position) -?\d+ for .*|.+ for (steered|cache steering)\b.*"
    ),
    "activation": r".*\bactivation\b.*",
    "prompt": r"(CoT|forced|response prefill|few-shot|\d+-shot)\b.*",
    "baseline": r"baseline|no offset|offset\b.*|slot (-?\d+ )?hidden\b.*|attention knockout\b.*",
}
"""What labels of a kind look like, the first that fits counts; anything else is the name of a steering."""

SHEET = str(files(__package__) / "style.mplstyle")

P = ParamSpec("P")
_PLOTTED: WeakKeyDictionary[Figure, pd.DataFrame] = WeakKeyDictionary()


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the style sheet, remember what it plots, and close its figure for pyplot, so that
    notebooks show it once.

    What it plots is its first argument where that is a table or a mapping of tables; a function of something else calls
    `attach` itself. What isn't a table (where the first argument is annotated as one), a table without rows, or without
    a column that the function reads, is refused with a sentence (`ValueError`), so the functions need not look.

    Example:
        >>> import pandas as pd
        >>> from matplotlib import pyplot as plt
        >>> from matplotlib.figure import Figure
        >>> import kvsteer_lab as kv
        >>> @kv.figures.styled
        ... def plot_shares(table: pd.DataFrame) -> Figure:
        ...     figure, axis = plt.subplots()
        ...     axis.bar(table.label, table.share)
        ...     return figure
        >>> figure = plot_shares(pd.DataFrame({"label": ["baseline"], "share": [0.5]}))
        >>> len(figure.axes[0].patches)
        1
    """

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        data = next(iter([*args, *kwargs.values()]), None)
        _check_kind(draw, data)
        before = set(plt.get_fignums())
        try:
            with plt.style.context(SHEET):
                figure = draw(*args, **kwargs)
            refused = _refusal(draw, data, None)
        except Exception as error:
            refused = _refusal(draw, data, error)
            if refused is None:
                raise
            raise ValueError(refused) from error
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
        if refused is not None:
            raise ValueError(refused)
        tables = data.values() if isinstance(data, Mapping) and data else [data]
        if figure not in _PLOTTED and all(isinstance(table, pd.DataFrame) for table in tables):
            attach(figure, data)
        return figure

    return wrapper


def _check_kind(draw: Callable[..., Figure], data: object) -> None:
    """Refuse what isn't the table, or the tables by name, that a function's first annotation asks for."""
    takes = str(next(iter(draw.__annotations__.values()), ""))
    if takes == "pd.DataFrame" and not isinstance(data, pd.DataFrame):
        raise ValueError(
            f"{draw.__name__} draws a pandas table, not a {type(data).__name__}; pass the one that its docstring names."
        )
    if takes.startswith("Mapping[") and not isinstance(data, Mapping):
        raise ValueError(
            f"{draw.__name__} draws several tables by their names, not a {type(data).__name__}; pass them as its"
            " docstring says."
        )


def _refusal(draw: Callable[..., Figure], data: object, error: Exception | None) -> str | None:
    """Why a figure can't be drawn of these tables, where its own function didn't say: there are no rows, or a column is
    missing.
    """
    if isinstance(error, ValueError) and _raised_by_us(error):
        return None
    tables = list(data.values()) if isinstance(data, Mapping) else [data]
    frames = [table for table in tables if isinstance(table, pd.DataFrame)]
    if not tables or (frames and all(table.empty for table in frames)):
        return (
            f"{draw.__name__} was given no rows, so there is nothing to draw; pass the table that its docstring names."
        )
    lacks = (
        error.args[0]
        if isinstance(error, KeyError)
        else error.name
        if isinstance(error, AttributeError) and _holds_columns(error.obj, frames)
        else None
    )
    if frames and lacks is not None and any(lacks not in table.columns for table in frames):
        what = f"has no column {lacks!r}" if str(lacks).isidentifier() else "lacks columns that it reads"
        return f"The table that {draw.__name__} was given {what}; pass the table that its docstring names."
    return None


def _holds_columns(thing: object, frames: Sequence[pd.DataFrame]) -> bool:
    """Whether attributes of this are columns: a table, its groups, or one of its rows."""
    if isinstance(thing, pd.Series):
        return any(thing.index.equals(table.columns) for table in frames)
    return isinstance(thing, pd.DataFrame | DataFrameGroupBy) or hasattr(thing, "_fields")


def _raised_by_us(error: Exception) -> bool:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__", "")).startswith(__name__.partition(".")[0])


def attach(figure: Figure, data: pd.DataFrame | Mapping[Any, pd.DataFrame], names: Sequence[str] = ("key",)) -> Figure:
    """Remember what a figure plots, to be saved beside it.

    Args:
        figure: a figure.
        data: a tidy table, or several by a key; an index that says something becomes columns.
        names: what the columns are called that hold the keys; keys that are tuples have a name each.

    Example:
        >>> import pandas as pd
        >>> from matplotlib.figure import Figure
        >>> data_of(attach(Figure(), pd.DataFrame({"share": [0.5]}))).share.tolist()
        [0.5]
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
    """The colour of an intervention, by its label.

    Of several at once (`kv.Together`), a control's colour comes first, then activation steering's, cache steering's, a
    prompt's; what only hides a slot or changes the offset has the baseline's. A name of one's own that doesn't begin as
    those of its kind do (`CoT ...`, `2-shot ...`, `forced ...`) is taken for a steering's.

    Example:
        >>> color_of("CoT prompt") == COLORS["prompt"], color_of("my steering") == COLORS["steered"]
        (True, True)
    """
    parts = re.sub(r"'[^']*'|\"[^\"]*\"", "''", label).split(" + ")  # forced words may hold anything
    kinds = {next((kind for kind, look in _KINDS.items() if re.fullmatch(look, part)), "steered") for part in parts}
    return COLORS[next(kind for kind in ("random", "activation", "steered", "prompt", "baseline") if kind in kinds)]


def label_of(label: object) -> str:
    """An intervention's label as figures write it: in the field's terms, on one line, no part of it a formula.

    Example:
        >>> label_of("forced 'Step'")
        "response prefill 'Step'"
    """
    return for_figure(label_name(str(label)))


def tint(color: str, share: float) -> str:
    """A colour mixed with white, so that an order can be told without another hue.

    Args:
        color: in hex.
        share: how much of it is left, from 0 (white) to 1.

    Example:
        >>> tint("#000000", 0.0), tint("#d55e00", 1.0)
        ('#ffffff', '#d55e00')
    """
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(color))
    return to_hex((red, green, blue))


def ink(value: float, low: float, high: float) -> str:
    """Black or white, whichever is read better on the colour that `AMOUNT` gives a value.

    Example:
        >>> ink(0.1, 0, 1), ink(0.9, 0, 1)
        ('white', 'black')
    """
    return "white" if value < low + 0.55 * (high - low) else "black"
