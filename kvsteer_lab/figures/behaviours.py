"""Behaviours at a glance: how often replies show them, under a prompt, steering and random vectors."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.text import for_figure
from .style import COLORS, ONE_COLUMN, TWO_COLUMNS, color_of, label_of, styled


@styled
def plot_behaviours(table: pd.DataFrame) -> Figure:
    """The share of replies that show each behaviour, a panel a behaviour and a row a method: the table of a
    `kv.behaviours.BehaviourStudy`, or of `kv.behaviours.entangle`.

    Lines are Wilson's 95% intervals; the dashed line is the baseline. The pale bar behind a steering holds the middle
    95% of random vectors of its size, and the diamond is their mean. A cross is the share of replies that end in a
    loop, where there are any. With several behaviours the title counts in how many of them a method shows the behaviour
    more often than the baseline does (p < .05 after Holm's correction).

    Raises:
        ValueError: a table that isn't indexed by behaviour and method.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> row = dict(n=24, baseline=0.1, value=0.5, low=0.3, high=0.7)
        >>> index = pd.MultiIndex.from_tuples([("french", "cache steering")], names=["behaviour", "method"])
        >>> kv.figures.plot_behaviours(pd.DataFrame([row], index=index)).axes[0].get_title()
        'french, 24 prompts'
    """
    if table.index.nlevels != 2:
        raise ValueError(
            "The table has no behaviour and method in its index; pass the table of a kv.behaviours.BehaviourStudy."
        )
    panels = [(name, part.droplevel(0)) for name, part in table.groupby(level=0, sort=False)]
    most = max(len(part) for _, part in panels)
    width, above = (ONE_COLUMN, 0.0) if len(panels) == 1 else (TWO_COLUMNS, 0.4)
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(width, 0.8 + above + 0.26 * most),
        layout="constrained",
        squeeze=False,
    )
    if len(panels) > 1 and {"difference", "p_holm"} <= set(table.columns):
        figure.suptitle(_counted(table))
    before: list[str] = []
    for axis, (name, part) in zip(axes[0], panels, strict=True):
        labels = [_short(label, name) for label in part.index]
        for place, (label, row) in enumerate(zip(labels, part.to_dict("records"), strict=True)):
            y = len(part) - 1 - place
            color = COLORS["prompt"] if "prompt" in label else color_of(label)
            if pd.notna(row.get("random_low")):
                ends = [row["random_low"], row["random_high"]]
                axis.plot(ends, [y, y], color=COLORS["random"], linewidth=7, alpha=0.35, solid_capstyle="butt")
                axis.plot(row["random"], y, "D", color=COLORS["random"], markersize=4)
            axis.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1)
            axis.plot(row["value"], y, "o", color=color)
            if row.get("loop", 0) > 0:
                axis.plot(row["loop"], y, "x", color="black", markersize=4)
        axis.axvline(float(part.baseline.iloc[0]), color="black", linewidth=0.6, linestyle="--", zorder=0)
        axis.set(
            title=for_figure(f"{name}, {int(part.n.iloc[0])} prompts"),
            xlabel="share of replies",
            xlim=(-0.03, 1.03),
            ylim=(-0.6, most - 0.4),
            yticks=range(len(part)),
            yticklabels=["" if labels == before else label_of(label) for label in labels[::-1]],
        )
        before = labels  # named once where all panels have the same rows
    return figure


def _short(label: object, name: object) -> str:
    """A method without the behaviour that its label ends in."""
    return str(label).removesuffix(f" {name}")


def _counted(table: pd.DataFrame) -> str:
    """In how many behaviours each method does more than nothing, in words."""
    more = (table.difference > 0) & (table.p_holm < 0.05)
    counts = more.groupby([_short(label, name) for name, label in table.index], sort=False).sum()
    found = ", ".join(f"{label_of(label)} {count}" for label, count in counts.items())
    n = table.index.get_level_values(0).nunique()
    return f"Shown more often than without it, after Holm's correction,\nof {n} behaviours: {found}"
