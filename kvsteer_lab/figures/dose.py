"""Dose-response curves with the band of random vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._util.terms import measure_name
from ..stats.intervals import wilson
from .columns import check_column
from .style import COLORS, TWO_COLUMNS, attach, color_of, label_of, styled


@styled
def plot_dose_response(table: pd.DataFrame) -> Figure:
    """CoT rate and accuracy against the relative strength: the table that `kv.dose_response` gives.

    Bars are 95% Wilson intervals; the band holds the middle 95% of the random controls, the dotted line is their mean.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"coefficient": [1.0, 3.0], "dose": [0.5, 1.5], "accuracy": [0.5, 0.9],
        ...                       "reasoned": [0.1, 0.9]})
        >>> figure = kv.figures.plot_dose_response(table.assign(vector="steering", n=40))
        >>> [axis.get_title() for axis in figure.axes]
        ['CoT rate', 'accuracy']
    """
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.4), layout="constrained", sharey=True)
    for axis, column in zip(axes, ("reasoned", "accuracy"), strict=True):
        _draw(axis, table, column, COLORS["steered"])
        axis.set(title=measure_name(column), xlabel="relative strength: $|c_v S^V|$ / norm of the values there")
    axes[0].set_ylabel("share of questions")
    axes[0].annotate(
        "strength\n($c_v$)",
        (0, 0),
        xytext=(-26, -11),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=6,
        va="top",
        ha="center",
    )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def plot_dose_responses(tables: Mapping[str, pd.DataFrame], column: str = "accuracy") -> Figure:
    """Several methods over relative strengths, a panel each: tables of `kv.dose_response` by label. Bars and bands
    as in `plot_dose_response`.

    Raises:
        ValueError: no tables, or another column than `"accuracy"` and `"reasoned"`.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"coefficient": [1.0, 3.0], "dose": [0.5, 1.5], "accuracy": [0.5, 0.9]})
        >>> table = table.assign(vector="steering", n=40)
        >>> figure = kv.figures.plot_dose_responses({"cache steering": table, "activation steering": table})
        >>> [axis.get_title() for axis in figure.axes]
        ['cache steering', 'activation steering']
    """
    check_column(column, ("accuracy", "reasoned"))
    if not tables:
        raise ValueError("There are no tables to draw; pass {label: kv.dose_response(...)}.")
    figure, axes = plt.subplots(
        1, len(tables), figsize=(TWO_COLUMNS, 2.4), layout="constrained", sharey=True, squeeze=False
    )
    for axis, (label, table) in zip(axes[0], tables.items(), strict=True):
        _draw(axis, table, column, color_of(label))
        axis.set(title=label_of(label), xlabel="relative strength (coefficient)")
        axis.tick_params(axis="x", labelsize=6)
    axes[0, 0].set_ylabel(measure_name(column))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    # each panel has its colour
    shown = dict(zip(labels, handles, strict=True)) | {"steering vectors": Line2D([], [], color="black", marker="o")}
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=3)
    return attach(figure, tables, ("method",))


def _draw(axis: Axes, table: pd.DataFrame, column: str, color: str) -> None:
    steered = table[table.vector == "steering"].sort_values("dose")
    controls = table[table.vector != "steering"].groupby("dose")
    bounds = np.array([wilson(round(k * n), int(n)) for k, n in zip(steered[column], steered.n, strict=True)])
    error = np.abs(np.stack([steered[column] - bounds[:, 0], bounds[:, 1] - steered[column]]))
    axis.errorbar(
        steered.dose, steered[column], error, color=color, marker="o", elinewidth=0.7, label="steering vectors"
    )
    if len(controls):
        band = controls[column].quantile([0.025, 0.975]).unstack()
        low, high = band[0.025] - 0.01, band[0.975] + 0.01  # a band of no height is drawn as a line
        axis.fill_between(
            band.index, low, high, color=COLORS["random"], alpha=0.35, linewidth=0, label="random vectors, middle 95%"
        )
        axis.plot(controls[column].mean(), ":", color=COLORS["random"], label="random vectors, mean")
    axis.set(ylim=(-0.04, 1.04), xscale="log")
    ticks = steered.dose.to_numpy()
    axis.set_xticks(ticks, [f"{d:.2g}\n({c:.2g})" for d, c in zip(ticks, steered.coefficient, strict=True)])
    axis.minorticks_off()
