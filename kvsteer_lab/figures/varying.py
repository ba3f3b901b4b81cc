"""Dependence of an effect on the pairs, the temperature, the position and the offset token."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._util.terms import measure_name
from .._util.text import for_figure
from .columns import check_column
from .style import COLORS, ONE_COLUMN, TWO_COLUMNS, styled

MARKERS, LINES = "osD^v", ("-", "--", ":", "-.")


@styled
def plot_extraction(tables: Mapping[str, pd.DataFrame], column: str = "adopted") -> Figure:
    """Adoption (or `"gain"`) against numbers of pairs or shots, one line per relative strength: tables of
    `kv.analysis.vary_extraction` by `"pairs"` or `"shots"`.

    Bars are 95% intervals over both vectors and questions. Black lines beside adoption run from the lowest to the
    highest vector; the band holds the middle 95% of random vectors.

    Raises:
        ValueError: no tables, a key that is neither, or another column.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"pairs": [1, 4], "adopted": [0.5, 0.8], "adopted_low": [0.4, 0.7],
        ...                       "adopted_high": [0.6, 0.9]})
        >>> table = table.assign(dose=1.5, adopted_min=table.adopted_low, adopted_max=table.adopted_high)
        >>> kv.figures.plot_extraction({"pairs": table}).axes[0].get_xlabel()
        'pairs'
    """
    check_column(column, ("adopted", "gain"))
    if not tables or set(tables) - {"pairs", "shots"}:
        raise ValueError("Pass tables of kv.analysis.vary_extraction by what varies in them: 'pairs', 'shots' or both.")
    width = ONE_COLUMN if len(tables) == 1 else TWO_COLUMNS
    figure, axes = plt.subplots(1, len(tables), figsize=(width, 2.4), layout="constrained", sharey=True, squeeze=False)
    doses = sorted({dose for table in tables.values() for dose in table.dose})
    low, high = ("adopted_low", "adopted_high") if column == "adopted" else ("low", "high")
    for axis, (what, table) in zip(axes[0], tables.items(), strict=True):
        for i, dose in enumerate(doses):
            own = table[table.dose == dose].sort_values(what)
            shift = 1 + 0.03 * (i - (len(doses) - 1) / 2)
            place = own[what] * shift
            error = np.stack([own[column] - own[low], own[high] - own[column]]).clip(min=0)
            look = dict(
                marker=MARKERS[i % 5],
                linestyle=LINES[i % 4],
                markerfacecolor="white" if i % 2 == 0 else COLORS["steered"],
                elinewidth=0.7,
            )
            axis.errorbar(
                place, own[column], error, color=COLORS["steered"], label=f"relative strength {dose:g}", **look
            )
            if column == "adopted":
                name = "lowest to highest vector" if i == 0 else None
                axis.vlines(
                    place * 1.05,
                    own.adopted_min - 0.004,
                    own.adopted_max + 0.004,
                    color="black",
                    linewidth=1.6,
                    label=name,
                )
                if "random_adopted_low" in own:
                    band = (own.random_adopted_low - 0.008, own.random_adopted_high + 0.008)
                    name = "random vectors, middle 95%" if i == 0 else None
                    axis.fill_between(own[what], *band, color=COLORS["random"], alpha=0.35, linewidth=0, label=name)
        ticks = sorted(table[what].unique())
        axis.set(xscale="log", xlabel=what, ylim=(-0.05, 1.05) if column == "adopted" else None)
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    axes[0, 0].set_ylabel(measure_name(column) if column == "adopted" else "gain in accuracy")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2 if width == ONE_COLUMN else 4)
    return figure


@styled
def plot_temperature(table: pd.DataFrame) -> Figure:
    """Accuracy and adoption against the sampling temperature: the table of `kv.analysis.temperature_response`.

    Bars are 95% intervals, clustered by question; the band holds the middle 95% of random vectors.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [(t, vector) for t in (0.0, 1.0) for vector in ("baseline", "steering")]
        >>> table = pd.DataFrame(rows, columns=["temperature", "vector"]).assign(accuracy=0.5, low=0.4, high=0.6)
        >>> table = table.assign(adopted=0.5, adopted_low=0.4, adopted_high=0.6)
        >>> [axis.get_title() for axis in kv.figures.plot_temperature(table).axes]
        ['accuracy', 'share in the style']
    """
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.4), layout="constrained", sharey=True)
    looks = {"baseline": (COLORS["baseline"], "s", "--"), "steering": (COLORS["steered"], "o", "-")}
    second = "adopted" if table.adopted.notna().any() else "reasoned"
    for axis, column in zip(axes, ("accuracy", second), strict=True):
        low, high = ("low", "high") if column == "accuracy" else (f"{column}_low", f"{column}_high")
        random = table[table.vector == "random"].sort_values("temperature")
        if len(random):
            axis.fill_between(
                random.temperature,
                random[low] - 0.006,
                random[high] + 0.006,
                color=COLORS["random"],
                alpha=0.35,
                linewidth=0,
                label="random vectors, middle 95%",
            )
        for vector, (color, marker, line) in looks.items():
            own = table[table.vector == vector].sort_values("temperature")
            error = np.stack([own[column] - own[low], own[high] - own[column]]).clip(min=0)
            axis.errorbar(
                own.temperature,
                own[column],
                error,
                color=color,
                marker=marker,
                linestyle=line,
                elinewidth=0.7,
                label=vector,
            )
        axis.set(
            xlabel="temperature (0: greedy)",
            title=measure_name(column),
            ylim=(-0.04, 1.04),
            xticks=sorted(table.temperature.unique()),
        )
    axes[0].set_ylabel("share of replies")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def plot_slots(tables: Mapping[str, pd.DataFrame], column: str = "accuracy") -> Figure:
    """A panel for the steered position, one for the offset token: tables of `slot_response` and `offset_response` by
    `"slot"` and `"offset"`.

    Bars are 95% Wilson intervals; the broad bars under the points hold the middle 95% of random vectors.

    Raises:
        ValueError: no tables, a key that is neither, or another column.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"slot": [None, -1], "token": ["", "\\n"], "accuracy": [0.5, 0.9], "low": 0.4,
        ...                       "high": 0.95})
        >>> kv.figures.plot_slots({"slot": table.astype({"slot": "Int64"})}).axes[0].get_xlabel()
        'steered position and its token'
    """
    check_column(column, ("accuracy", "reasoned"))
    if not tables or set(tables) - {"slot", "offset"}:
        raise ValueError("Pass the tables of kv.analysis.slot_response and offset_response by 'slot' and 'offset'.")
    width = ONE_COLUMN if len(tables) == 1 else TWO_COLUMNS
    figure, axes = plt.subplots(1, len(tables), figsize=(width, 2.5), layout="constrained", sharey=True, squeeze=False)
    for axis, (what, table) in zip(axes[0], tables.items(), strict=True):
        if what == "slot":
            _draw_slots(axis, table, column)
        else:
            _draw_offsets(axis, table, column)
    axes[0, 0].set(ylabel=measure_name(column), ylim=(-0.04, 1.04))
    handles = {
        label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    columns = len(handles) if width == TWO_COLUMNS else 2
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)
    return figure


def _draw_slots(axis: Axes, table: pd.DataFrame, column: str) -> None:
    own = table[table.slot.notna()]
    place = np.arange(len(own))
    axis.axhline(
        table[table.slot.isna()][column].iloc[0],
        color=COLORS["baseline"],
        linestyle="--",
        linewidth=0.8,
        label="baseline",
    )
    if "random_low" in own and column == "accuracy":
        _random_bars(axis, place, own)
    _points(axis, place, own, column, "steered", "o", "steering")
    axis.set_xticks(
        place, [f"{slot}\n{_token(token)}" for slot, token in zip(own.slot, own.token, strict=True)], fontsize=6
    )
    axis.set(xlabel="steered position and its token", xlim=(-0.5, len(own) - 0.5))


def _draw_offsets(axis: Axes, table: pd.DataFrame, column: str) -> None:
    names = list(dict.fromkeys(table.offset))
    for vector, kind, marker, shift in (("baseline", "baseline", "s", -0.12), ("steering", "steered", "o", 0.12)):
        own = table[(table.vector == vector) & table[column].notna()]
        _points(axis, np.array([names.index(o) for o in own.offset]) + shift, own, column, kind, marker, vector)
    axis.set_xticks(range(len(names)), [for_figure(name.replace("' '", "space")) for name in names])
    axis.set(xlabel="offset token", xlim=(-0.5, len(names) - 0.5))
    if "random_low" in table and column == "accuracy":
        own = table[table.random_low.notna()]
        place = np.array([names.index(o) for o in own.offset]) + 0.12
        _random_bars(axis, place, own)


def _random_bars(axis: Axes, place: np.ndarray, own: pd.DataFrame) -> None:
    axis.vlines(
        place,
        own.random_low - 0.012,
        own.random_high + 0.012,
        color=COLORS["random"],
        alpha=0.5,
        linewidth=8,
        label="random vectors, middle 95%",
    )


def _points(axis: Axes, place: np.ndarray, own: pd.DataFrame, column: str, kind: str, marker: str, label: str) -> None:
    low, high = ("low", "high") if column == "accuracy" else (f"{column}_low", f"{column}_high")
    error = np.stack([own[column] - own[low], own[high] - own[column]]).astype(float).clip(min=0)
    axis.errorbar(place, own[column].astype(float), error, fmt=marker, color=COLORS[kind], elinewidth=0.8, label=label)


def _token(token: str) -> str:
    text = repr(token).strip("'")
    return for_figure(text if len(text) <= 12 else text[:11] + "…")
