"""Figures of the explorer's results: a sweep's heatmap, texts token by token, pairs in their principal
components.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .._util.terms import measure_name
from .._util.text import for_figure
from .geometry import look, words
from .style import AMOUNT, ONE_COLUMN, TWO_COLUMNS, color_of, ink, label_of, styled

_FEW = 5  # columns of a sweep that can be read in one column of a paper, beside the names of its rows
_MARKERS = {
    "baseline": "P",
    "CoT prompt": "s",
    "forced prefix": "^",
    "cache steering": "o",
    "activation steering": "D",
    "random control": "x",
}


@styled
def plot_sweep(
    table: pd.DataFrame, measure: str = "reasoned", title: str = "", row_title: str = "", column_title: str = ""
) -> Figure:
    """A sweep of the explorer, a cell for each setting: what `Sweep.to_frame` gives.

    Args:
        table: one row per cell, with `row`, `column` and the measure; the row called `"baseline"` is written into the
            title.
        measure: the column that is drawn.
        title, row_title, column_title: what is swept.

    Raises:
        ValueError: no finished cell, or a measure that isn't defined for these cells.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> cells = [("baseline", "", 0.1), ("0", "1", 0.2), ("0", "6", 0.9)]
        >>> table = pd.DataFrame(cells, columns=["row", "column", "reasoned"]).assign(n=8)
        >>> figure = kv.figures.plot_sweep(table, row_title="c_k", column_title="c_v")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0.20', '0.90']
    """
    cells = table[table.row != "baseline"]
    if cells.empty or cells[measure].isna().all():
        raise ValueError(f"There is nothing to draw: no finished cell of the sweep has the measure {measure!r}.")
    rows, columns = (list(dict.fromkeys(cells[name])) for name in ("row", "column"))
    columns.sort(key=float)
    grid = (
        cells.pivot(index="row", columns="column", values=measure).reindex(index=rows, columns=columns).to_numpy(float)
    )
    width = ONE_COLUMN if len(columns) <= _FEW else TWO_COLUMNS
    figure, axes = plt.subplots(figsize=(width, 1.1 + 0.3 * len(rows)), layout="constrained")
    low, high = span_of(table[measure].dropna().tolist(), measure)
    image = axes.imshow(grid, cmap=AMOUNT, vmin=low, vmax=high, aspect="auto")
    axes.set(
        xticks=range(len(columns)), yticks=range(len(rows)), xlabel=_symbol(column_title), ylabel=_symbol(row_title)
    )
    axes.set_xticklabels(list(map(for_figure, columns)))
    axes.set_yticklabels(list(map(for_figure, rows)))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(grid):
        if not np.isnan(value):
            axes.annotate(
                f"{value:.0f}" if measure == "tokens" else f"{value:.2f}",
                (j, i),
                ha="center",
                va="center",
                fontsize=6,
                color=ink(value, *image.get_clim()),
            )
    plain = table[table.row == "baseline"][measure]
    texts = int(cells.n.iloc[0])
    below = f"{texts} text{'s' * (texts != 1)} a cell" + (f"; baseline {plain.iloc[0]:.2f}" if len(plain) else "")
    # Over the whole width: the axes alone are narrower than a long title.
    figure.suptitle(
        f"{for_figure(title)}{': ' if title else ''}{measure_name(measure)}\n{below}",
        fontsize=plt.rcParams["axes.titlesize"],
    )
    figure.colorbar(image, ax=axes, shrink=0.9, aspect=12)
    return figure


def span_of(values: Sequence[float], measure: str) -> tuple[float, float]:
    """The ends of a sweep's colours, on screen as in a file: a share's go from 0 up to the largest, so that small ones
    are told apart; lengths differ from a shortest one.

    Args:
        values: of all cells and of the baseline.
        measure: which one they are of.

    Example:
        >>> span_of([0.1, 0.4], "reasoned"), span_of([12.0, 30.0], "tokens")
        ((0.0, 0.4), (12.0, 30.0))
    """
    low = min(values, default=0.0) if measure == "tokens" else 0.0
    return low, max([*values, low + (1.0 if measure == "tokens" else 0.1)])


@styled
def plot_tokens(table: pd.DataFrame) -> Figure:
    """Texts token by token: the change of each token's log-probability against the baseline, and the total KL up to it.

    Args:
        table: one row per arm and token, with `arm`, `step` (from 1), `change` and `kl` in nats: what
            `Comparison.tokens` gives.

    Raises:
        ValueError: an empty table.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"arm": "cache steering", "step": [1, 2], "change": [0.5, -0.1], "kl": [0.2, 0.1]})
        >>> [axis.get_title() for axis in kv.figures.plot_tokens(table).axes]
        ['each token', 'total KL against the baseline']
    """
    if table.empty:
        raise ValueError("There are no texts to draw; compare something with the baseline first.")
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.3), layout="constrained", sharex=True)
    for arm, own in table.groupby("arm", sort=False):
        look = dict(color=color_of(str(arm)), marker=_MARKERS.get(str(arm), "*"), markersize=3, label=label_of(arm))
        axes[0].plot(own.step, own.change, linewidth=0.6, **look)
        axes[1].plot(own.step, own.kl.cumsum(), **look)
    axes[0].axhline(0, color="black", linewidth=0.5)
    axes[0].set(xlabel="token", ylabel="change of log-probability (nats)", title="each token")
    axes[1].set(xlabel="token", ylabel="total KL so far (nats)", title="total KL against the baseline")
    axes[1].set_ylim(bottom=0)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


@styled
def plot_components(table: pd.DataFrame, layer: int, part: str) -> Figure:
    """Single pairs by their first two principal components.

    Args:
        table: one row per pair, with `set`, `style`, `x`, `y`, and the components' shares of the variance,
            `explained_x` and `explained_y`.
        layer, part: what they are of.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"set": "my pairs", "style": "stepwise", "x": [0.0, 1.0], "y": [1.0, 0.0]})
        >>> figure = kv.figures.plot_components(table.assign(explained_x=0.6, explained_y=0.2), layer=2, part="values")
        >>> figure.axes[0].get_xlabel()
        'PC 1 (60%)'
    """
    figure, axes = plt.subplots(figsize=(ONE_COLUMN, 2.9), layout="constrained")
    for name, own in table.groupby("set", sort=False):
        color, marker = look(str(own["style"].iloc[0]))
        axes.scatter(own.x, own.y, s=9, color=color, marker=marker, linewidths=0.4, alpha=0.7, label=words(str(name)))
    axes.set(
        xlabel=f"PC 1 ({table.explained_x.iloc[0]:.0%})",
        ylabel=f"PC 2 ({table.explained_y.iloc[0]:.0%})",
        title=for_figure(f"layer {layer}, {part}"),
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, handletextpad=0.2)
    return figure


def _symbol(title: str) -> str:
    return f"${title}$" if title in ("c_k", "c_v") else for_figure(title)
