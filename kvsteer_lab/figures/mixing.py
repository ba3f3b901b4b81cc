"""Style arithmetic: the styles of replies when two styles' vectors are mixed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._util.text import for_figure
from .geometry import look, words
from .style import COLORS, TWO_COLUMNS, styled


@styled
def plot_style_mixing(table: pd.DataFrame) -> Figure:
    """Share of replies in each style along the interpolation, and under sum and differences: the table that
    `analysis.style_mixing` gives.

    Bars are 95% Wilson intervals; broad ones on the right, where there are controls, hold the middle 95% of random
    vectors of the same norms. Only styles that come out somewhere are drawn.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> mixes = [("stepwise", "interpolation", 0.0, 1.0), ("analogical", "interpolation", 1.0, 1.0),
        ...          ("sum", "sum", None, 1.8)]
        >>> table = pd.DataFrame(mixes, columns=["mix", "kind", "weight", "size"])
        >>> table = table.assign(style="stepwise", share=[0.9, 0.1, 0.5], low=0.05, high=0.95, n=40)
        >>> kv.figures.plot_style_mixing(table).axes[1].get_xlabel()
        'share of 40 replies'
    """
    seen = table.groupby("style")["share"].max()
    styles = [s for s in dict.fromkeys(table["style"]) if seen[s] > 0]
    path = table[table.kind == "interpolation"]
    others = table[table.kind != "interpolation"]
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.6), layout="constrained", width_ratios=(1.25, 1))
    for place, style in enumerate(styles):
        shift = place - (len(styles) - 1) / 2
        color, marker = look(style)
        points = dict(color=color, markersize=5.5, markeredgecolor="white", elinewidth=0.7)
        own = path[path["style"] == style].sort_values("weight")
        axes[0].errorbar(own.weight, own["share"], _error(own), marker=marker, label=words(style), **points)
        own = others[others["style"] == style]
        rows = len(own) - 1 - np.arange(len(own)) - 0.16 * shift
        if "random" in own:
            ends = (own.random_low, own.random_high)
            axes[1].plot(
                ends,
                (rows, rows),
                "-|",
                color=COLORS["random"],
                linewidth=3.5,
                markersize=8,
                markeredgewidth=1.5,
                alpha=0.5,
            )
        axes[1].errorbar(own["share"], rows, xerr=_error(own), fmt=marker, **points)
    _name_ends(axes[0], path)
    names = others.drop_duplicates("mix")
    labels = [
        f"{words(mix)}\n(size {size:.2f})" if size else for_figure(mix)
        for mix, size in zip(names.mix, names["size"], strict=True)
    ]
    axes[1].set(
        yticks=len(names) - 1 - np.arange(len(names)),
        yticklabels=labels,
        xlim=(-0.04, 1.04),
        ylim=(-0.6, len(names) - 0.4),
    )
    axes[1].set(xlabel=f"share of {int(table.n.iloc[0])} replies")
    handles, found = axes[0].get_legend_handles_labels()
    if "random" in table:
        handles, found = (
            [*handles, Line2D([], [], color=COLORS["random"], linewidth=3.5, alpha=0.5)],
            [
                *found,
                "random vectors, middle 95%",
            ],
        )
    figure.legend(handles, found, loc="outside upper center", ncols=len(found))
    return figure


def _name_ends(axis: Axes, path: pd.DataFrame) -> None:
    ends = {weight: words(mix) for weight, mix in zip(path.weight, path.mix, strict=True) if weight in (0, 1)}
    every = sorted(path.weight.unique())
    ticks = every if len(every) <= 6 else [t for i, t in enumerate(every) if i % 2 == 0 or t in ends]
    axis.set(xticks=ticks, xticklabels=[f"{t:g}" + (f"\n{ends[t]}" if t in ends else "") for t in ticks])
    axis.set(xlabel="weight of the second style", ylabel=f"share of {int(path.n.iloc[0])} replies", ylim=(-0.04, 1.04))


def _error(rows: pd.DataFrame) -> np.ndarray:
    return np.abs(np.stack([rows["share"] - rows.low, rows.high - rows["share"]]))
