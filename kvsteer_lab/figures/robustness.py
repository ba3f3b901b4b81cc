"""Robustness of a tuned coefficient, and methods compared at equal relative strength and at equal divergence."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._util.terms import measure_name
from ..stats.intervals import wilson
from .columns import check_column
from .style import COLORS, ONE_COLUMN, TWO_COLUMNS, color_of, label_of, styled

MARKERS = "os^Dv"


@styled
def plot_robustness(table: pd.DataFrame) -> Figure:
    """Gain around the tuned coefficient, one panel per method: the table of `kv.analysis.robustness_curve`.

    Bars are 95% intervals over questions, the band holds the middle 95% of random vectors. Filled points keep enough of
    the gain at c* (the dashed rule is what is needed), open ones don't. The title counts them: the robustness number,
    and the mean of the random vectors' numbers.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> curve = pd.DataFrame({"ratio": [0.5, 1.0, 2.0], "gain": [0.1, 0.5, 0.5], "low": [0.0, 0.4, 0.4],
        ...                       "high": [0.2, 0.6, 0.6]})
        >>> curve = curve.assign(method="cache steering", dose=curve.ratio, n=40, needed=0.4, kept=[False, True, True])
        >>> kv.figures.plot_robustness(curve).axes[0].get_title().splitlines()[-1]
        'robustness 0.67'
    """
    methods = list(dict.fromkeys(table.method))
    width = TWO_COLUMNS if len(methods) > 1 else ONE_COLUMN
    figure, axes = plt.subplots(1, len(methods), figsize=(width, 2.5), layout="constrained", sharey=True, squeeze=False)
    for axis, method in zip(axes[0], methods, strict=True):
        own = table[table.method == method].sort_values("ratio")
        _draw_gains(axis, own, color_of(method))
        dose = own.dose[np.isclose(own.ratio, 1)].iloc[0]
        axis.set(
            title=f"{label_of(method)}\n$c^*$ at relative strength {dose:.2g}\n{_verdict(own)}",
            xlabel="coefficient / $c^*$",
        )
    axes[0, 0].set_ylabel(f"gain over the baseline,\n{int(table.n.iloc[0])} questions")
    handles = {
        label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    for label, face in (("steering, kept", "black"), ("steering, not kept", "white")):
        if label in handles:  # the same mark in every panel, whatever its colour
            handles[label] = Line2D(
                [], [], linestyle="none", marker="o", color="black", markerfacecolor=face, markersize=4
            )
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5 if len(methods) > 1 else 2)
    return figure


@styled
def plot_matched(table: pd.DataFrame, column: str = "accuracy") -> Figure:
    """Methods against relative strength on the left, and against the total KL from the plain model on the right.

    Args:
        table: `kv.dose_response` merged with `kv.analysis.divergence_response` on `coefficient` and `vector`, with a
            column `method`; of several methods put together by `pd.concat`. Rows of random vectors, where both tables
            have them, are small crosses.
        column: `"accuracy"` or `"reasoned"`.

    Raises:
        ValueError: another column, or a table without relative strengths, divergences and methods.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"dose": [0.5, 1.5], "kl": [0.2, 4.0], "accuracy": [0.5, 0.9]})
        >>> figure = kv.figures.plot_matched(table.assign(method="cache steering", vector="steering", n=40))
        >>> figure.axes[1].get_xlabel()
        "total KL(steered || plain) on the baseline's text, nats"
    """
    check_column(column, ("accuracy", "reasoned"))
    if missing := {"method", "dose", "kl", "vector", column} - set(table.columns):
        raise ValueError(
            f"The table has no column {min(missing)!r}; merge kv.dose_response with kv.analysis.divergence_response and"
            " name each method."
        )
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.7), layout="constrained", sharey=True)
    units = {
        "dose": "relative strength: added norm / norm there",
        "kl": "total KL(steered || plain) on the baseline's text, nats",
    }
    for axis, (unit, label) in zip(axes, units.items(), strict=True):
        for i, (method, own) in enumerate(table.groupby("method", sort=False)):
            others = own[own.vector != "steering"]
            axis.plot(
                others[unit],
                others[column],
                "x+1"[i % 3],
                color=COLORS["random"],
                markersize=4,
                markeredgewidth=0.9,
                zorder=4,
            )
            line = own[own.vector == "steering"].sort_values("dose")
            look = dict(
                color=color_of(str(method)),
                marker=MARKERS[i % len(MARKERS)],
                linestyle=("-", "--", ":")[i % 3],
                elinewidth=0.7,
            )
            axis.errorbar(line[unit], line[column], _error(line, column), label=label_of(method), **look)
            if len(others):
                axis.plot(
                    [],
                    [],
                    "x+1"[i % 3],
                    color=COLORS["random"],
                    markersize=4,
                    markeredgewidth=0.9,
                    label=f"random for {label_of(method)}",
                )
        axis.set(xlabel=label, ylim=(-0.04, 1.04))
    axes[1].locator_params(axis="x", nbins=4)
    axes[0].set_xscale("log")
    axes[0].set_xticks(
        ticks := sorted(table.dose.round(6).unique())[:: 2 if table.dose.nunique() > 6 else 1],
        [f"{t:.2g}" for t in ticks],
    )
    axes[0].minorticks_off()
    axes[0].set_ylabel(measure_name(column))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def _draw_gains(axis: Axes, own: pd.DataFrame, color: str) -> None:
    if "random" in own and own["random"].notna().all():
        low, high = own.random_low - 0.008, own.random_high + 0.008  # a band of no height is drawn as a line
        axis.fill_between(
            own.ratio, low, high, color=COLORS["random"], alpha=0.35, linewidth=0, label="random vectors, middle 95%"
        )
        axis.plot(own.ratio, own.random, ":", color=COLORS["random"], label="random vectors, mean")
    if own.kept.notna().all():
        axis.axhline(own.needed.iloc[0], color="black", linestyle="--", linewidth=0.6, label="needed")
    axis.axvline(1, color=COLORS["baseline"], linewidth=0.6)
    error = np.stack([own.gain - own.low, own.high - own.gain]).clip(min=0)
    axis.errorbar(own.ratio, own.gain, error, color=color, elinewidth=0.7, linewidth=1)
    kept = own.kept.fillna(False).to_numpy(bool)
    for chosen, face, label in ((kept, color, "steering, kept"), (~kept, "white", "steering, not kept")):
        if chosen.any():
            axis.plot(
                own.ratio[chosen], own.gain[chosen], "o", color=color, markerfacecolor=face, markersize=4, label=label
            )
    axis.set_xscale("log", base=2)
    ticks = [
        r
        for r in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)
        if own.ratio.min() * 0.99 <= r <= own.ratio.max() * 1.01
    ]
    axis.set_xticks(ticks, [f"{t:g}" if t >= 1 else f"1/{1 / t:g}" for t in ticks])
    axis.minorticks_off()
    lowest = own[["low", "random_low"]].min().min() if "random_low" in own else own.low.min()
    axis.set_ylim(min(-0.08, lowest - 0.05), max(1.04, own.high.max() + 0.04))


def _verdict(own: pd.DataFrame) -> str:
    if own.kept.isna().any():
        return "undefined: no gain at $c^*$"
    random = f", random {own.random_kept.mean():.2f}" if "random_kept" in own and own.random_kept.notna().all() else ""
    return f"robustness {own.kept.mean():.2f}{random}"


def _error(rows: pd.DataFrame, column: str) -> np.ndarray:
    bounds = np.array([wilson(round(share * n), int(n)) for share, n in zip(rows[column], rows.n, strict=True)])
    return np.abs(np.stack([rows[column] - bounds[:, 0], bounds[:, 1] - rows[column]]))
