"""How long an edit lasts in a conversation: a row for each way to go on after it, a shade for each turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._util.terms import measure_name
from .._util.text import for_figure
from .columns import check_column
from .style import COLORS, ONE_COLUMN, styled, tint

_LABELS = {column: measure_name(column) for column in ("accuracy", "reasoned", "adopted")} | {
    "change": "change of the first token's log-odds, nats"
}
_MARKS = ("o", "s", "^", "D")


@styled
def plot_turns(table: pd.DataFrame, column: str = "reasoned") -> Figure:
    """A share, or the change of the watched token's log-odds (`"change"`), of each way and turn: a table of
    `kv.analysis.summarise_turns`.

    One row per way; in it the turns from above, the later the paler. Lines through the points are 95% intervals
    (Wilson's; of the change, bootstrap); blue bars hold the middle 95% of random vectors. The change is counted from
    the plain conversations, so these lie at 0 and are left out.

    Raises:
        ValueError: an unknown column, or a table without edited conversations.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [(way, turn, 0.5) for way in ("plain", "kept") for turn in (1, 2)]
        >>> table = pd.DataFrame(rows, columns=["way", "turn", "reasoned"]).assign(reasoned_low=0.4, reasoned_high=0.6)
        >>> [label.get_text() for label in kv.figures.plot_turns(table).axes[0].get_yticklabels()]
        ['plain', 'kept']
    """
    check_column(column, _LABELS)
    if not (table.way != "plain").any():
        raise ValueError(
            "The table holds plain conversations only; pass the one that kv.analysis.summarise_turns returned."
        )
    ways = [way for way in dict.fromkeys(table.way) if way != "plain" or column != "change"]
    turns = sorted(set(table.turn))
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 0.9 + 0.075 * len(ways) * (len(turns) + 1)), layout="constrained")
    axis.use_sticky_edges = False  # a bar that ends where the axis begins looks cut off
    gap = 0.8 / len(turns)
    low, high = f"random_{column}_low", f"random_{column}_high"
    least = 0.02 if column != "change" else 0.004 * float(np.abs(table["change"]).max())  # a band of no height
    for row in table[table.way.isin(ways)].to_dict("records"):
        number = turns.index(row["turn"])
        y = ways.index(row["way"]) + (number - (len(turns) - 1) / 2) * gap
        if not pd.isna(row.get(low)):
            width = row[high] - row[low] + least
            axis.barh(y, width, 0.9 * gap, row[low] - least / 2, color=COLORS["random"], alpha=0.6, linewidth=0)
        kind = COLORS["baseline" if row["way"] == "plain" else "steered"]
        error = np.abs([[row[column] - row[f"{column}_low"]], [row[f"{column}_high"] - row[column]]])
        axis.errorbar(
            row[column],
            y,
            xerr=error,
            fmt=_MARKS[number % len(_MARKS)],
            color=kind,
            markerfacecolor=tint(kind, 1 - number / len(turns)),
            markeredgewidth=0.7,
            elinewidth=0.8,
            clip_on=False,
        )
    for border in np.arange(0.5, len(ways) - 1):
        axis.axhline(border, color="#dddddd", linewidth=0.5, zorder=0)
    if column == "change":
        axis.axvline(0, color=COLORS["baseline"], linewidth=0.7, zorder=0)
    else:
        axis.set(xlim=(-0.04, 1.04), xticks=[0, 0.5, 1])
    axis.set(yticks=range(len(ways)), yticklabels=list(map(for_figure, ways)), ylim=(len(ways) - 0.45, -0.55))
    axis.set_xlabel(_LABELS[column])
    axis.tick_params(axis="y", length=0)
    _legend(figure, turns, low in table and bool(table[low].notna().any()))
    return figure


def _legend(figure: Figure, turns: list[int], random: bool) -> None:
    def dot(number: int, label: str) -> Line2D:
        fill = tint(COLORS["steered"], 1 - number / len(turns))
        look: dict[str, Any] = dict(color=COLORS["steered"], marker=_MARKS[number % len(_MARKS)], markerfacecolor=fill)
        return Line2D([], [], linestyle="none", markersize=4, markeredgewidth=0.7, label=label, **look)

    keys = [dot(number, f"turn {turn}") for number, turn in enumerate(turns)]
    keys += [Line2D([], [], color=COLORS["random"], linewidth=4, alpha=0.6, label=" random vectors")] * random
    figure.legend(
        handles=keys, loc="outside upper center", ncols=5, columnspacing=0.8, handletextpad=0.2, handlelength=1.2
    )
