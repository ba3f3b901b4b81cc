"""Ablation of a steering by layer or KV head: one panel for each way of leaving them out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._util.text import for_figure
from ..stats.intervals import wilson
from .style import COLORS, ONE_COLUMN, TWO_COLUMNS, styled

_AXES = {
    "single": "{} kept",
    "leave one out": "{} left out",
    "from below": "highest {} kept",
    "from above": "lowest {} kept",
    "windows": "window's first {}",
    "single by layer": "{} kept",
}
_TITLES = {"single": "one alone", "leave one out": "all but one", "single by layer": "one head of one layer alone"}
_MOST_TICKS = 8


@styled
def plot_layers(table: pd.DataFrame, column: str = "accuracy") -> Figure:
    """Accuracy, or the share of `"reasoned"` replies, of each mask: a table of `kv.analysis.ablate_layers` or
    `ablate_heads`.

    One row of panels per part (keys, values, both), one column per way. Lines on the points are 95% Wilson intervals,
    the wide bars under them hold the middle 95% of random vectors at the same mask; the rules are the whole steering
    and the baseline.

    Raises:
        ValueError: a table without masks.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> ways = [("none", "", None, 0.5), ("all", "values", None, 0.9), ("single", "values", 1, 0.8),
        ...         ("single", "values", 2, 0.6)]
        >>> table = pd.DataFrame(ways, columns=["way", "part", "layer", "accuracy"]).assign(head=None, n=40)
        >>> table = table.assign(random_low=float("nan"),
        ...                      random_high=float("nan")).astype({"layer": "Int64", "head": "Int64"})
        >>> kv.figures.plot_layers(table).axes[0].get_xlabel()
        'layer kept'
    """
    ways = [way for way in dict.fromkeys(table.way) if way not in ("none", "all")]
    if not ways:
        raise ValueError(
            "The table holds no masks to draw, only the baseline or the whole; pass the one that"
            " kv.analysis.ablate_layers returned."
        )
    parts = list(dict.fromkeys(table[table.way.isin(ways)].part))
    width = ONE_COLUMN if len(ways) <= 2 else TWO_COLUMNS
    what = {"accuracy": "accuracy", "reasoned": "share that reasons"}[column]
    size = (width, 0.75 + 1.35 * len(parts))
    figure, axes = plt.subplots(
        len(parts), len(ways), figsize=size, layout="constrained", sharex="col", sharey=True, squeeze=False
    )
    for line, part in zip(axes, parts, strict=True):
        for axis, way in zip(line, ways, strict=True):
            # the dashes stay visible where both are one
            for name, level, look in (("all", part, "-"), ("none", "", "--")):
                rule = table[(table.way == name) & (table.part == level)]
                if len(rule):
                    label = "baseline, nothing added" if name == "none" else "whole steering"
                    axis.axhline(
                        rule[column].iloc[0],
                        color="black" if name == "all" else COLORS["baseline"],
                        linestyle=look,
                        linewidth=0.7,
                        label=label,
                    )
            _draw(axis, table[(table.way == way) & (table.part == part)], column)
        line[0].set_ylabel(f"{for_figure(part)}\n{what}")
    for axis, way in zip(axes[0], ways, strict=True):
        axis.set_title(_TITLES.get(way, for_figure(way)))
    for axis, way in zip(axes[-1], ways, strict=True):
        own = table[(table.way == way) & (table.part == parts[0])]
        unit = "layer and KV head" if way == "single by layer" else "layer" if own["head"].isna().all() else "KV head"
        axis.set_xlabel(_AXES[way].format(unit))
        names = [_name(row.layer, row.head) for row in own.itertuples()]
        step = -(-len(names) // _MOST_TICKS)
        axis.set(
            xticks=range(0, len(names), step),
            xticklabels=names[::step],
            xlim=(-0.6, len(names) - 0.4),
            ylim=(-0.05, 1.05),
            yticks=[0, 0.5, 1],
        )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2 if width == ONE_COLUMN else 4)
    return figure


def _name(layer: int | None, head: int | None) -> str:
    if pd.isna(layer) or pd.isna(head):
        return str(head if pd.isna(layer) else layer)
    return f"{layer}\nh{head}"


def _draw(axis: Axes, rows: pd.DataFrame, column: str) -> None:
    place = np.arange(len(rows))
    band = "random" if column == "accuracy" else f"random_{column}"
    low, high = rows[f"{band}_low"], rows[f"{band}_high"]
    if low.notna().any():  # a band of no height is drawn as a line
        axis.vlines(
            place,
            low - 0.012,
            high + 0.012,
            color=COLORS["random"],
            alpha=0.5,
            linewidth=_thickness(axis, len(rows)),
            label="random vectors, middle 95%",
        )
    bounds = np.array([wilson(round(share * n), int(n)) for share, n in zip(rows[column], rows.n, strict=True)])
    error = np.abs(np.stack([rows[column] - bounds[:, 0], bounds[:, 1] - rows[column]]))
    axis.errorbar(
        place,
        rows[column],
        error,
        fmt="o",
        color=COLORS["steered"],
        elinewidth=1,
        label=f"steering, {int(rows.n.iloc[0])} questions",
        clip_on=False,
    )


def _thickness(axis: Axes, n: int) -> float:
    """Points that leave a gap between `n` bars side by side."""
    return min(9.0, 0.6 * 72 * axis.get_window_extent().width / axis.figure.dpi / n)
