"""Forecasts against measured effects, and the split-half stability of a mean at each number of pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._util.text import for_figure
from .style import COLORS, ONE_COLUMN, TWO_COLUMNS, styled

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_HUES = (
    *(COLORS[kind] for kind in ("steered", "prompt", "activation", "random")),
    "#cc79a7",
    "#e69f00",
    "#000000",
    COLORS["baseline"],
)
_ALMOST = 1 - 1e-6
_NAMES = {
    "agreement": "agreement of two pairs (cosine)",
    "stability": "stability of halves (cosine)",
    "signal_to_noise": "signal to noise",
    "pairs": "number of pairs",
    "norm": "norm of the mean / slot's own norm",
}


@styled
def plot_forecasts(table: pd.DataFrame, correlations: pd.DataFrame, effect: str = "effect") -> Figure:
    """Forecast against realised effect, one panel per forecast: the tables of `analysis.realised_effects` and
    `analysis.forecast_correlations`.

    Markers are places, filled for the first model and hollow for others; bars are the points' 95% intervals. Above a
    panel stand Spearman's
    correlations with their intervals: over all points, and in the narrowest scope of the table.

    Args:
        table: the points.
        correlations: which forecasts to show, and what to write above them.
        effect: the column on the vertical axis: `"effect"` (adoption of the style) or `"gain"` (accuracy).

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> points = pd.DataFrame({"agreement": [0.1, 0.5], "effect": [0.2, 0.8], "low": [0.1, 0.7],
        ...                        "high": [0.3, 0.9]})
        >>> scope = dict(scope="all points", forecast="agreement", rho=1.0, low=0.9, high=1.0)
        >>> figure = kv.figures.plot_forecasts(points.assign(place="values", model="tiny"), pd.DataFrame([scope]))
        >>> figure.axes[0].get_title(loc="left")
        'all points: 1.00 [0.90, 1.00]'
    """
    low, high = ("gain_low", "gain_high") if effect == "gain" else ("low", "high")
    names, places, models = (
        list(dict.fromkeys(column)) for column in (correlations.forecast, table.place, table.model)
    )
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    size = (TWO_COLUMNS if columns > 1 else ONE_COLUMN, 0.5 + 2.2 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        # the first on top
        for place, color, marker in reversed(
            [*zip(places, _cycle(_HUES, len(places)), _cycle(_MARKS, len(places)), strict=True)]
        ):
            for model in models:
                own = table[(table.place == place) & (table.model == model)]
                axis.vlines(
                    own[name], own[low], own[high], color=COLORS["baseline"], alpha=0.15, linewidth=0.5, zorder=1
                )
                face = color if model == models[0] else "none"
                axis.scatter(
                    own[name],
                    own[effect],
                    s=11,
                    marker=marker,
                    facecolor=face,
                    edgecolor=color,
                    linewidths=0.6,
                    alpha=0.8,
                )
        _scale(axis, name, table)
        axis.set(xlabel=_NAMES.get(name, for_figure(name)))
        axis.set_title(_written(correlations[correlations.forecast == name]), fontsize=7, loc="left")
    for axis in axes[:, 0]:
        axis.set_ylabel(
            "accuracy over the baseline's" if effect == "gain" else "share in the style over the baseline's"
        )
    for axis in list(axes.flat)[len(names) :]:
        axis.set_axis_off()
    _legend(figure, places, models)
    return figure


@styled
def plot_split_half(table: pd.DataFrame) -> Figure:
    """Split-half stability against the number of pairs, one panel per part: the table that `analysis.split_half` gives.

    Bars hold the middle 95% of splits; dotted lines are what the smallest size predicts; the hatched band is what
    random signs give, over all sets.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"n": [1, 4], "stability": [0.3, 0.6], "low": [0.1, 0.5], "high": [0.5, 0.7]})
        >>> table = table.assign(pairs="stepwise", part="values", flipped_low=-0.4, flipped_high=0.4,
        ...                      extrapolated=[0.3, 0.63])
        >>> kv.figures.plot_split_half(table).axes[0].get_title()
        'values'
    """
    parts, names = list(dict.fromkeys(table.part)), list(dict.fromkeys(table.pairs))
    width = ONE_COLUMN if len(parts) == 1 else TWO_COLUMNS
    figure, axes = plt.subplots(1, len(parts), figsize=(width, 2.7), layout="constrained", sharey=True, squeeze=False)
    for axis, part in zip(axes.flat, parts, strict=True):
        _draw_stability(axis, table[table.part == part], names)
        axis.set(title=for_figure(part), xlabel="pairs in each half")
    axes[0, 0].set_ylabel("cosine between the halves' means")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2 if len(parts) == 1 else 5
    )
    return figure


def _scale(axis: Axes, name: str, table: pd.DataFrame) -> None:
    """Cosines by Fisher's z, which gives those near 1 their room; ratios and counts by their logarithms."""
    if name in ("agreement", "stability"):
        axis.set_xscale("function", functions=(lambda x: np.arctanh(np.clip(x, -_ALMOST, _ALMOST)), np.tanh))
        shown = [
            x for x in (-0.9, -0.5, 0, 0.5, 0.9, 0.99, 0.999, 0.9999) if table[name].min() - 0.2 < x < table[name].max()
        ]
        axis.set_xticks(shown, [f"{x:g}".replace("0.", ".") for x in shown])
    elif name == "signal_to_noise":
        axis.set_xscale("symlog", linthresh=1)
    elif name == "pairs":
        axis.set_xscale("log")
        axis.set_xticks(sorted(table.pairs.unique()), [str(n) for n in sorted(table.pairs.unique())])
    axis.minorticks_off()


def _draw_stability(axis: Axes, table: pd.DataFrame, names: list[str]) -> None:
    band = table.groupby("n")[["flipped_low", "flipped_high"]].agg({"flipped_low": "min", "flipped_high": "max"})
    low, high = band.flipped_low, band.flipped_high
    axis.fill_between(
        band.index,
        low,
        high,
        color=COLORS["random"],
        alpha=0.25,
        linewidth=0,
        hatch="////",
        label="random signs, all sets",
    )
    for i, (name, color, marker) in enumerate(
        zip(names, _cycle(_HUES, len(names)), _cycle(_MARKS, len(names)), strict=True)
    ):
        own = table[table.pairs == name].sort_values("n")
        # side by side
        at, bars = own.n * 1.08 ** (i - (len(names) - 1) / 2), (own.stability - own.low, own.high - own.stability)
        axis.errorbar(
            at,
            own.stability,
            yerr=bars,
            color=color,
            marker=marker,
            markersize=4,
            linewidth=1,
            elinewidth=0.6,
            capsize=1.5,
            label=for_figure(name),
        )
        axis.plot(at, own.extrapolated, color=color, linestyle=":", linewidth=1.2)
    axis.plot([], [], color="black", linestyle=":", linewidth=1.2, label=f"predicted from n = {table.n.min()}")
    sizes = sorted(table.n.unique())
    axis.set(xscale="log", ylim=(min(-1.05, band.flipped_low.min()), 1.08))
    axis.set_xticks(sizes, [str(n) for n in sizes])
    axis.minorticks_off()


def _written(rows: pd.DataFrame) -> str:
    """The first and the last scope, a line each."""
    lines = []
    for row in rows.iloc[sorted({0, len(rows) - 1})].to_dict("records"):
        rho, low, high = (round(float(row[name]), 2) + 0.0 for name in ("rho", "low", "high"))  # no minus zero
        interval = "" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]"
        end = "\n" if len(row["scope"]) > 30 else " "  # a panel's width
        lines.append(
            f"{for_figure(row['scope'])}:{end}" + ("nothing varies" if pd.isna(rho) else f"{rho:.2f}{interval}")
        )
    return "\n".join(lines)


def _legend(figure: Figure, places: list[str], models: list[str]) -> None:
    looks = zip(places, _cycle(_HUES, len(places)), _cycle(_MARKS, len(places)), strict=True)
    keys = [
        Line2D([], [], color=color, marker=marker, linestyle="none", markersize=4.5, label=for_figure(place))
        for place, color, marker in looks
    ]
    if len(models) > 1:
        filled = {models[0]: "black", ", ".join(models[1:]): "none"}
        keys += [
            Line2D(
                [],
                [],
                color="black",
                marker="o",
                markerfacecolor=f,
                linestyle="none",
                markersize=4.5,
                label=for_figure(m),
            )
            for m, f in filled.items()
        ]
    figure.legend(handles=keys, loc="outside upper center", ncols=4, columnspacing=1, handletextpad=0.2)


def _cycle(values: tuple[str, ...], n: int) -> list[str]:
    return [values[i % len(values)] for i in range(n)]
