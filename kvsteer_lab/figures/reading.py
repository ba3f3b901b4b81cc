"""Reading of the steered slot: attention to it, its attention knockout, and its influence from each step on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from .._util.terms import measure_name
from .._util.text import for_figure
from .style import AMOUNT, COLORS, ONE_COLUMN, TWO_COLUMNS, attach, color_of, ink, label_of, styled

_HATCHES = ["", "////", "....", "xxxx"]
_MAPS = {
    "attention knockout in one": ("one layer", "one head"),
    "in all but one": ("all but one layer", "all but one head"),
}
_ORDER = {way: i for i, way in enumerate(("nothing", "everything", "from step", "only at step", "other slot"))}
_STRIP = {
    "nothing": "no knockout",
    "everything": "knocked out in all layers",
    "from step": "from token {step} on",
    "only at step": "at token {step} only",
    "other slot": "position {slot} instead",
}
_FEWEST_TOKENS = 5
_MOST_WRITTEN = 72  # cells of a map that can still be read
_MOST_TICKS = 8


@styled
def plot_attention(table: pd.DataFrame) -> Figure:
    """Mean attention to the slot, one panel per intervention (controls left out), one row per query head, one column
    per step: a table of `kv.analysis.attention_to_slot`.

    Raises:
        ValueError: no interventions but controls.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [(layer, head, step, 0.1) for layer in (0, 1) for head in (0, 1) for step in (0, 1)]
        >>> table = pd.DataFrame(rows, columns=["layer", "head", "step", "attention"])
        >>> figure = kv.figures.plot_attention(table.assign(intervention="cache steering", control_of=None))
        >>> figure.axes[0].get_title()
        'cache steering'
    """
    own = table[table.control_of.isna()] if "control_of" in table.columns else table
    labels = list(dict.fromkeys(own.intervention))
    if not labels:
        raise ValueError("The table holds no interventions to draw, only controls; pass rows of what they control.")
    heads = own[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    width = ONE_COLUMN if len(labels) < 3 else TWO_COLUMNS
    figure, axes = plt.subplots(
        1,
        len(labels),
        figsize=(width, min(6.0, 0.9 + 0.11 * len(heads))),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    order = pd.MultiIndex.from_frame(heads)
    for axis, label in zip(axes[0], labels, strict=True):
        mean = (
            own[own.intervention == label]
            .pivot_table(index=["layer", "head"], columns="step", values="attention")
            .reindex(order)
        )
        image = axis.imshow(mean.to_numpy(), aspect="auto", cmap=AMOUNT, vmin=0, vmax=1, interpolation="nearest")
        step = -(-mean.shape[1] // _MOST_TICKS)
        axis.set(
            title=label_of(label),
            xlabel="step",
            xticks=range(0, mean.shape[1], step),
            xticklabels=mean.columns[::step],
        )
        for border in np.flatnonzero(heads.layer.diff().fillna(0)):
            axis.axhline(border - 0.5, color="white", linewidth=0.6)
    every = -(-len(heads) // 20)
    names = [f"{layer}.{head}" for layer, head in order]
    axes[0, 0].set(yticks=range(0, len(heads), every), yticklabels=names[::every], ylabel="layer.query head")
    figure.colorbar(image, ax=axes, label="attention to the steered position", pad=0.02)
    return attach(
        figure, own.groupby(["intervention", "layer", "head", "step"], sort=False).attention.mean().reset_index()
    )


@styled
def plot_knock_out(table: pd.DataFrame, column: str = "reasoned") -> Figure:
    """Accuracy, or the CoT rate (`"reasoned"`), under attention knockout of the slot: a table of
    `kv.analysis.knock_out_reading`.

    Maps of layers and query heads, of those that the slot is hidden from and of those that alone still read it, as far
    as the table has them; the column `all` is the layer as a whole. The strip beside them holds what is about no layer:
    the run that reads the slot, the slot hidden from everything or from a step on, and other slots hidden from
    everything, with 95% Wilson intervals. The strip's colour is that of what is there to be read.

    Raises:
        ValueError: a table without knock-outs.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> ways = [("nothing", None, 0.9), ("everything", None, 0.1), ("one layer", 1, 0.4), ("one layer", 2, 0.8)]
        >>> table = pd.DataFrame(ways, columns=["way", "layer", "reasoned"]).assign(head=None, step=None, slot=-1)
        >>> table = table.astype({"layer": "Int64"}).assign(intervention="cache steering")
        >>> table = table.assign(reasoned_low=table.reasoned - 0.1, reasoned_high=table.reasoned + 0.1)
        >>> [axis.get_title() for axis in kv.figures.plot_knock_out(table).axes[:2]]
        ['attention knockout in one', 'position -1 in all layers']
    """
    if not (table.way != "nothing").any():
        raise ValueError(
            "The table holds no knock-outs to draw; pass the one that kv.analysis.knock_out_reading returned."
        )
    maps = {name: ways for name, ways in _MAPS.items() if table.way.isin(ways).any()}
    grids = {name: _by_place(table[table.way.isin(ways)], column) for name, ways in maps.items()}
    columns = max((grid.shape[1] for grid in grids.values()), default=0)
    strip = table[~table.way.isin([way for ways in _MAPS.values() for way in ways])].sort_values(
        "way", key=lambda ways: ways.map(_ORDER), kind="stable"
    )
    tall = max([0.13 * len(strip), *(0.2 * min(len(grid), 16) for grid in grids.values())])
    figure, axes = plt.subplots(
        1,
        len(grids) + 1,
        figsize=(TWO_COLUMNS, 0.85 + tall),
        layout="constrained",
        squeeze=False,
        width_ratios=[*([max(columns, 3)] * len(grids)), 5],
    )
    what = for_figure(measure_name(column))
    for axis, (name, grid) in zip(axes[0], grids.items(), strict=False):
        image = _draw_map(axis, grid)
        axis.set_title(name)
    axes[0, 0].set_ylabel("layer" if grids else "")
    if grids:
        figure.colorbar(image, ax=list(axes[0, :-1]), label=what, location="bottom", aspect=30, pad=0.03)
    _draw_strip(axes[0, -1], strip, column)
    slot = table[table.way != "other slot"].slot.iloc[0]
    axes[0, -1].set(xlabel=what, title=f"position {for_figure(slot)} in all layers")
    return figure


def _by_place(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Layers by heads; a layer as a whole is the column `all`."""
    names = table["head"].map(lambda head: "all" if pd.isna(head) else str(head))
    order = sorted(set(names), key=lambda name: (name == "all", int(name) if name != "all" else 0))
    return table.assign(place=names).pivot(index="layer", columns="place", values=column)[order]


def _draw_map(axis: Axes, grid: pd.DataFrame) -> AxesImage:
    shown = grid.to_numpy(float)
    image = axis.imshow(shown, cmap=AMOUNT, vmin=0, vmax=1, aspect="auto", origin="lower", interpolation="nearest")
    if shown.size <= _MOST_WRITTEN:
        for (i, j), share in np.ndenumerate(shown):
            if not np.isnan(share):
                text = f"{share:.2f}".replace("0.", ".")
                axis.annotate(text, (j, i), ha="center", va="center", fontsize=6, color=ink(share, 0, 1))
    for way, values in (("x", grid.columns), ("y", grid.index)):
        step = -(-len(values) // (2 * _MOST_TICKS))
        axis.set(**{f"{way}ticks": range(0, len(values), step), f"{way}ticklabels": [str(v) for v in values[::step]]})
    if "all" in grid.columns and grid.shape[1] > 1:
        axis.axvline(grid.shape[1] - 1.5, color="white", linewidth=2)
    axis.set_xlabel("query head" if grid.shape[1] > 1 else "heads")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return image


def _draw_strip(axis: Axes, strip: pd.DataFrame, column: str) -> None:
    low, high = ("low", "high") if column == "accuracy" else (f"{column}_low", f"{column}_high")
    names = []
    for place, row in enumerate(strip.itertuples()):
        color = COLORS["random"] if row.way == "other slot" else color_of(str(row.intervention))
        share = float(getattr(row, column))
        error = [[abs(share - getattr(row, low))], [abs(getattr(row, high) - share)]]
        marker = "s" if row.way == "other slot" else "D" if row.way == "nothing" else "o"
        axis.errorbar(share, place, xerr=error, fmt=marker, color=color, elinewidth=0.9, clip_on=False)
        names.append(_STRIP.get(row.way, "{way}").format(way=row.way, slot=row.slot, step=row.step))
    axis.set(yticks=range(len(names)), yticklabels=list(map(for_figure, names)), xlim=(-0.03, 1.03), xticks=[0, 0.5, 1])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


@styled
def plot_half_life(steps: pd.DataFrame, summary: pd.DataFrame | None = None) -> Figure:
    """What reading the slot is still worth from each token on, one bar per intervention: the tables of
    `kv.analysis.half_life`.

    Black lines are 95% bootstrap intervals over prompts. With `summary`, a line across each
    intervention's first bar is the most that another slot of the prompt is worth. Behind the last token at which a
    hundredth of the most is left, three more are drawn.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> steps = pd.DataFrame({"step": [0, 1, 2], "left": [4.0, 1.0, 0.1], "left_low": 0.05, "left_high": 5.0})
        >>> figure = kv.figures.plot_half_life(steps.assign(intervention="cache steering"))
        >>> figure.axes[0].get_xlabel()
        'attention knockout from this token on (0: offset)'
    """
    labels = list(dict.fromkeys(steps.intervention))
    last = steps[steps.left >= 0.01 * steps.left.max()].step.max()
    steps = steps[steps.step <= max(last + 3, _FEWEST_TOKENS)]
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 2.3), layout="constrained")
    width = 0.8 / len(labels)
    for number, (label, hatch) in enumerate(zip(labels, _HATCHES * len(labels), strict=False)):
        part, color = steps[steps.intervention == label], color_of(str(label))
        place = part.step + (number - (len(labels) - 1) / 2) * width
        error = np.abs(np.stack([part.left - part.left_low, part.left_high - part.left]))
        look: dict[str, Any] = dict(
            hatch=hatch, edgecolor="white", linewidth=0, ecolor="black", error_kw={"elinewidth": 0.8}
        )
        axis.bar(place, part.left, width, yerr=error, color=color, label=label_of(label), **look)
        if summary is not None:
            most = float(summary.set_index("intervention").other[label])
            ends = place.iloc[0] + np.array([-0.5, 0.5]) * width
            axis.plot(
                ends,
                [most, most],
                color="black",
                linewidth=1.4,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    if summary is not None:
        axis.plot([], [], color="black", linewidth=1.4, label="another position, at most")
    axis.set(xlabel="attention knockout from this token on (0: offset)", ylabel="nats lost in the rest of the text")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, [axis], 2)
    return figure


def _legend(figure: Figure, axes: Iterable[Axes], columns: int) -> None:
    """One legend above all panels, each label once."""
    found: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=columns)
