"""Forecasts against measured effects, and the split-half stability of a mean at each number of pairs."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._util.text import for_figure
from .style import COLORS, ONE_COLUMN, TWO_COLUMNS, styled

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SHADES = ("#1a1a1a", "#5e5e5e", "#8f8f8f", "#b5b5b5")
"""Sets of pairs and forecasts are of no kind of intervention: greys and markers tell them apart."""

_ALMOST = 1 - 1e-6
_NAMES = {
    "agreement": "agreement of two pairs (cosine)",
    "stability": "stability of halves (cosine)",
    "signal_to_noise": "signal to noise",
    "pairs": "number of pairs",
    "norm": "relative strength at coefficient 1",
}


@styled
def plot_forecasts(table: pd.DataFrame, correlations: pd.DataFrame, effect: str = "effect") -> Figure:
    """How well forecasts tell the realised effect: the tables of `analysis.realised_effects` and
    `analysis.forecast_correlations`.

    Left a forest of Spearman's correlations with their 95% intervals, a group of rows for each scope; a correlation
    that has no interval is hollow, and one that isn't defined is left out, as is a scope without any. Right, small,
    the points themselves under the forecast that is first in the table: markers are places, filled for the first model
    and hollow for others.

    Args:
        table: the points.
        correlations: a row per scope and forecast.
        effect: the column on the vertical axis of the points: `"effect"` (adoption of the style) or `"gain"`
            (accuracy).

    Raises:
        ValueError: no correlation is defined.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> points = pd.DataFrame({"agreement": [0.1, 0.5], "effect": [0.2, 0.8], "low": [0.1, 0.7],
        ...                        "high": [0.3, 0.9]})
        >>> scope = dict(scope="all points", forecast="agreement", rho=1.0, low=0.9, high=1.0)
        >>> figure = kv.figures.plot_forecasts(points.assign(place="values", model="tiny"), pd.DataFrame([scope]))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['all points']
    """
    defined = correlations[correlations["rho"].notna()]  # between places, say, where there is only one
    if defined.empty:
        raise ValueError("No correlation of the table is defined; take points in which forecasts and effects differ.")
    names = list(dict.fromkeys(defined.forecast))
    scopes = list(dict.fromkeys(defined["scope"]))
    size = (TWO_COLUMNS, max(2.4, 0.9 + 0.11 * len(scopes) * (len(names) + 1)))
    figure, (forest, inset) = plt.subplots(1, 2, figsize=size, layout="constrained", width_ratios=(1.7, 1))
    gap = 0.8 / len(names)
    for row in defined.to_dict("records"):
        number = names.index(row["forecast"])
        y = scopes.index(row["scope"]) + (number - (len(names) - 1) / 2) * gap
        color, known = _SHADES[number % len(_SHADES)], not pd.isna(row["low"])
        if known:
            forest.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1)
        look = dict(marker=_MARKS[number % len(_MARKS)], markerfacecolor=color if known else "white", markersize=4)
        forest.plot(row["rho"], y, color=color, linestyle="none", clip_on=False, **look)
    forest.axvline(0, color=COLORS["baseline"], linewidth=0.7, zorder=0)
    for border in np.arange(0.5, len(scopes) - 1):
        forest.axhline(border, color="#dddddd", linewidth=0.5, zorder=0)
    forest.set(yticks=range(len(scopes)), yticklabels=[_broken(scope) for scope in scopes])
    forest.set(xlim=(-1.05, 1.05), ylim=(len(scopes) - 0.45, -0.55), xlabel="Spearman's correlation with the effect")
    forest.tick_params(axis="y", length=0)
    keys = [
        Line2D([], [], color=color, marker=marker, markersize=4, linewidth=1, label=_NAMES.get(name, for_figure(name)))
        for name, color, marker in zip(names, _cycle(_SHADES, len(names)), _cycle(_MARKS, len(names)), strict=True)
    ]
    _draw_points(inset, table, names[0], effect)
    forest.legend(handles=keys, loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=2, columnspacing=1)
    return figure


def _draw_points(axis: Axes, table: pd.DataFrame, name: str, effect: str) -> None:
    places, models = list(dict.fromkeys(table.place)), list(dict.fromkeys(table.model))
    low, high = ("gain_low", "gain_high") if effect == "gain" else ("low", "high")
    axis.vlines(table[name], table[low], table[high], color=COLORS["baseline"], alpha=0.15, linewidth=0.5, zorder=1)
    looks = [*zip(places, _cycle(_SHADES, len(places)), _cycle(_MARKS, len(places)), strict=True)]
    for place, color, marker in reversed(looks):  # the first on top
        for model in models:
            own = table[(table.place == place) & (table.model == model)]
            face = color if model == models[0] else "white"
            look = dict(marker=marker, facecolor=face, edgecolor=color, linewidths=0.5)
            axis.scatter(own[name], own[effect], s=8, zorder=2, **look)
    keys = [
        Line2D([], [], color=color, marker=marker, linestyle="none", markersize=3.5, label=for_figure(place))
        for place, color, marker in looks
    ]
    faces = {models[0]: "black", ", ".join(map(str, models[1:])): "white"} if len(models) > 1 else {}
    keys += [
        Line2D(
            [],
            [],
            color="black",
            marker="o",
            markerfacecolor=face,
            linestyle="none",
            markersize=3.5,
            label=for_figure(m),
        )
        for m, face in faces.items()
    ]
    _scale(axis, name, table)
    what = "accuracy over the baseline's" if effect == "gain" else "share in the style over the baseline's"
    axis.set_xlabel(_NAMES.get(name, for_figure(name)), fontsize=7)
    axis.set_ylabel(what, fontsize=7)
    axis.tick_params(labelsize=6)
    axis.legend(handles=keys, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2, fontsize=6, handletextpad=0.1)


def _broken(scope: str) -> str:
    """A scope in lines that leave the forest its room."""
    return "\n".join(for_figure(line) for line in textwrap.wrap(scope, 22)) or for_figure(scope)


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
        zip(names, _cycle(_SHADES, len(names)), _cycle(_MARKS, len(names)), strict=True)
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


def _cycle(values: tuple[str, ...], n: int) -> list[str]:
    return [values[i % len(values)] for i in range(n)]
