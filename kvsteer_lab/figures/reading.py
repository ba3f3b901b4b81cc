"""Reading of the steered slot: attention to it, the effect of hiding it, and its influence from each step on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .._util.text import for_figure
from .style import COLORS, ONE_COLUMN, TWO_COLUMNS, attach, color_of, styled

_LOOKS = [("o", "-"), ("s", "--"), ("^", "-."), ("D", (0, (5, 1)))]  # dotted are the rules
_GROUPS = {
    "whole": ("nothing", "everything", "other slot"),
    "layers": ("one layer", "all but one layer"),
    "heads": ("one head", "all but one head"),
    "steps": ("from step", "only at step"),
}
_FLOOR = 0.01  # nats; below, the axis is linear
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
        image = axis.imshow(mean.to_numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        step = -(-mean.shape[1] // _MOST_TICKS)
        axis.set(
            title=for_figure(label),
            xlabel="step",
            xticks=range(0, mean.shape[1], step),
            xticklabels=mean.columns[::step],
        )
        for border in np.flatnonzero(heads.layer.diff().fillna(0)):
            axis.axhline(border - 0.5, color="black", linewidth=0.4)
    every = -(-len(heads) // 20)
    names = [f"{layer}.{head}" for layer, head in order]
    axes[0, 0].set(yticks=range(0, len(heads), every), yticklabels=names[::every], ylabel="layer.query head")
    figure.colorbar(image, ax=axes, label="attention to the slot", pad=0.02)
    return attach(
        figure, own.groupby(["intervention", "layer", "head", "step"], sort=False).attention.mean().reset_index()
    )


@styled
def plot_knock_out(table: pd.DataFrame, column: str = "reasoned") -> Figure:
    """Accuracy, or the share of `"reasoned"` replies, with the slot hidden: a table of `kv.analysis.knock_out_reading`.

    A panel for the whole slot and other slots, for layers, heads and steps, as far as the table has them. Filled:
    hidden from this one; open: from all but this one. Lines are 95% Wilson intervals; the rule is the run that reads
    the slot. The colour is that of what is there to be read.

    Raises:
        ValueError: a table without knock-outs.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> ways = [("nothing", None, 0.9), ("everything", None, 0.1), ("one layer", 1, 0.4), ("one layer", 2, 0.8)]
        >>> table = pd.DataFrame(ways, columns=["way", "layer", "reasoned"]).assign(head=None, step=None, slot=-1)
        >>> table = table.astype({"layer": "Int64"}).assign(intervention="cache steering")
        >>> table = table.assign(reasoned_low=table.reasoned - 0.1, reasoned_high=table.reasoned + 0.1)
        >>> [axis.get_xlabel() for axis in kv.figures.plot_knock_out(table).axes]
        ['slot', 'layer']
    """
    panels = {
        name: ways for name, ways in _GROUPS.items() if table.way.isin(ways[1:] if name == "whole" else ways).any()
    }
    if not panels:
        raise ValueError(
            "The table holds no knock-outs to draw; pass the one that kv.analysis.knock_out_reading returned."
        )
    low, high = ("low", "high") if column == "accuracy" else (f"{column}_low", f"{column}_high")
    own = color_of(table.intervention.iloc[0])
    sizes = [max(3, len(_names(table, ways))) for ways in panels.values()]
    width = ONE_COLUMN if sum(sizes) <= 12 else TWO_COLUMNS
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(width, 2.1),
        layout="constrained",
        sharey=True,
        squeeze=False,
        width_ratios=[s**0.7 for s in sizes],
    )
    for axis, (name, ways) in zip(axes[0], panels.items(), strict=True):
        names = _names(table, ways)
        for rule in table[table.way == "nothing"][column]:
            axis.axhline(rule, color="black", linewidth=0.7, zorder=0)
        for number, way in enumerate(w for w in ways if (table.way == w).any()):
            part = table[table.way == way]
            control = way == "other slot"
            place = [names.index(_name(row)) for row in part.itertuples()]
            error = np.abs(np.stack([part[column] - part[low], part[high] - part[column]]))
            color = COLORS["random"] if control else own
            fill = "white" if way.startswith("all but") else color
            label = {"nothing": "slot read"}.get(way, f"hidden: {for_figure(way)}")
            shift = 0.0 if name == "whole" else 0.15 * (number - 0.5 * (len(ways) - 1))
            marker = "s" if control else "D" if way == "nothing" else "o"
            look = dict(fmt=marker, color=color, markerfacecolor=fill, elinewidth=0.8, clip_on=False)
            axis.errorbar(np.array(place) + shift, part[column], error, label=label, **look)
        step = -(-len(names) // (_MOST_TICKS if len(names) < 20 else 2 * _MOST_TICKS))
        axis.set(
            xticks=range(0, len(names), step),
            xticklabels=names[::step],
            xlim=(-0.7, len(names) - 0.3),
            ylim=(-0.05, 1.05),
            yticks=[0, 0.5, 1],
        )
        axis.set_xlabel({"whole": "slot", "layers": "layer", "heads": "layer.query head", "steps": "step"}[name])
        if len(names) > _MOST_TICKS or name == "whole":
            axis.tick_params(axis="x", labelrotation=90)
    axes[0, 0].set_ylabel({"accuracy": "accuracy", "reasoned": "share that reasons"}.get(column, for_figure(column)))
    _legend(figure, axes[0], 2 if width == ONE_COLUMN else 4)
    return figure


def _names(table: pd.DataFrame, ways: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(_name(row) for row in table[table.way.isin(ways)].itertuples()))


def _name(row: object) -> str:
    """What a knock-out is about: a layer, a head, a step, or which slot."""
    way, layer, head, step, slot = (getattr(row, name) for name in ("way", "layer", "head", "step", "slot"))
    if way in _GROUPS["whole"]:
        return for_figure(slot)
    return ".".join(str(x) for x in (layer, head) if not pd.isna(x)) if pd.isna(step) else str(step)


@styled
def plot_half_life(steps: pd.DataFrame, summary: pd.DataFrame | None = None) -> Figure:
    """What reading the slot is still worth from each step on, one line per intervention: the tables of
    `kv.analysis.half_life`.

    Bands are 95% bootstrap intervals over prompts. Dotted rules, with `summary`: the most that another slot of the
    prompt is worth.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> steps = pd.DataFrame({"step": [0, 1, 2], "left": [4.0, 1.0, 0.1], "left_low": 0.05, "left_high": 5.0})
        >>> figure = kv.figures.plot_half_life(steps.assign(intervention="cache steering"))
        >>> figure.axes[0].get_xlabel()
        'slot hidden from step'
    """
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 2.3), layout="constrained")
    for (label, part), (marker, line) in zip(steps.groupby("intervention", sort=False), _LOOKS * 9, strict=False):
        color = color_of(str(label))
        axis.plot(
            part.step, part.left, marker=marker, linestyle=line, color=color, label=for_figure(label), markersize=3
        )
        axis.fill_between(part.step, part.left_low, part.left_high, color=color, alpha=0.2, linewidth=0)
        if summary is not None:
            axis.axhline(
                summary.set_index("intervention").other[label], color=color, linestyle=(0, (1, 3)), linewidth=0.8
            )
    axis.set_yscale("symlog", linthresh=_FLOOR, linscale=0.5)
    axis.set(xlabel="slot hidden from step", ylabel="nats lost in the rest of the text", ylim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, [axis], 3)
    return figure


def _legend(figure: Figure, axes: Iterable[Axes], columns: int) -> None:
    """One legend above all panels, each label once."""
    found: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(list(found.values()), list(found), loc="outside upper center", ncols=columns)
