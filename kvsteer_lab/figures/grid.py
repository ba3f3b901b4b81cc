"""Heat maps of a grid of key and value coefficients, one for each measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from .._util.terms import measure_name
from .._util.text import for_figure
from .columns import check_column
from .style import AMOUNT, TWO_COLUMNS, ink, styled

_MEASURES = ("accuracy", "reasoned", "adopted", "tokens", "truncated", "loops", "repetition")
_MOST_WRITTEN = 72  # cells of a panel that can still be read


@styled
def plot_coefficient_grid(
    table: pd.DataFrame, measures: Sequence[str] = ("accuracy", "adopted", "tokens", "loops")
) -> Figure:
    """One heat map per measure, a row of them a task: tables of `kv.analysis.coefficient_grid`, of several tasks put
    together by `pd.concat`.

    Each panel's title gives the baseline; the cell without any edit has a frame. Where there are too many cells to
    write numbers into, a contour is drawn half-way between the ends of the colour bar. The colour map gets lighter
    evenly, so it can be read in grey.

    Raises:
        ValueError: no cells, no measures, or one that isn't known.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> cells = [("baseline", 0, 0, 0.5), ("cell", 0, 0, 0.5), ("cell", 0, 6, 0.9)]
        >>> table = pd.DataFrame(cells, columns=["cell", "ck", "cv", "accuracy"]).assign(task="arithmetic", tokens=20.0)
        >>> figure = kv.figures.plot_coefficient_grid(table, ["accuracy"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['.50', '.90']
    """
    cells = table[table.cell == "cell"]
    if cells.empty or not measures:
        raise ValueError(
            "There are no cells or no measures to draw; pass the table that kv.analysis.coefficient_grid returned."
        )
    for measure in measures:
        check_column(measure, _MEASURES)
    tasks = list(dict.fromkeys(table.task))
    rows = cells.ck.nunique()
    size = (TWO_COLUMNS, 0.75 + len(tasks) * (0.55 + 0.17 * max(rows, 4)))
    figure, axes = plt.subplots(
        len(tasks), len(measures), figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for column, measure in zip(axes.T, measures, strict=True):
        most = 1.0 if measure != "tokens" else float(table.tokens.max())
        for axis, task in zip(column, tasks, strict=True):
            image = _draw(axis, cells[cells.task == task], measure, most)
            baseline = table[(table.task == task) & (table.cell == "baseline")][measure].iloc[0]
            axis.set_title(f"{measure_name(measure)}\nbaseline {_write(baseline)}", fontsize=7)
        bar = figure.colorbar(image, ax=column, location="bottom", aspect=18, pad=0.02, fraction=0.05)
        bar.ax.tick_params(labelsize=6)
        bar.outline.set_visible(False)
        column[-1].set_xlabel("$c_v$")
    for line, task in zip(axes, tasks, strict=True):
        line[0].set_ylabel(f"{for_figure(task)}\n$c_k$")
    return figure


def _draw(axis: Axes, cells: pd.DataFrame, measure: str, most: float) -> AxesImage:
    grid = cells.pivot(index="ck", columns="cv", values=measure).sort_index()
    shown = grid.to_numpy(float)
    image = axis.imshow(shown, cmap=AMOUNT, vmin=0, vmax=most, origin="lower", aspect="auto")
    if shown.size <= _MOST_WRITTEN:
        for (i, j), value in np.ndenumerate(shown):
            axis.annotate(
                _write(value),
                (j, i),
                ha="center",
                va="center",
                fontsize=4.8,
                color=ink(value, 0, most),
            )
    elif min(shown.shape) > 1:
        axis.contour(shown, levels=[most / 2], colors="white", linewidths=0.8)
    if 0 in grid.index and 0 in grid.columns:
        i, j = list(grid.index).index(0), list(grid.columns).index(0)
        axis.add_patch(
            Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.4, clip_on=False, zorder=3)
        )
        axis.add_patch(
            Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=0.6, clip_on=False, zorder=4)
        )
    for which, values in (("x", grid.columns), ("y", grid.index)):
        step = -(-len(values) // 9)
        ticks = range(0, len(values), step)
        axis.set(**{f"{which}ticks": ticks, f"{which}ticklabels": [f"{v:g}" for v in list(values)[::step]]})
    axis.tick_params(length=0, labelsize=6)
    axis.spines[:].set_visible(False)
    return image


def _write(value: float) -> str:
    if np.isnan(value):
        return ""
    if value > 1:
        return f"{value:.0f}"
    return f"{value:.2f}".removeprefix("0") if 0.005 <= value < 0.995 else f"{value:.0f}"
