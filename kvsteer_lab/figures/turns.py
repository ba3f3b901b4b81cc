"""How long an edit lasts in a conversation, turn by turn: a panel for each way to go on after it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter, SymmetricalLogLocator

from .._util.text import for_figure
from .style import COLORS, TWO_COLUMNS, styled

_LABELS = {
    "accuracy": "accuracy",
    "reasoned": "share that reasons",
    "adopted": "share in the style",
    "change": "change of the first\ntoken's log-odds, nats",
}
_COLUMNS = 4


@styled
def plot_turns(table: pd.DataFrame, column: str = "reasoned") -> Figure:
    """A share, or the change of the watched token's log-odds (`"change"`), in each turn: a table of
    `kv.analysis.summarise_turns`, one panel per way.

    Lines on the points are 95% intervals (Wilson's; of the change, bootstrap). Bands hold the middle 95% of random
    vectors. The change is counted from the plain conversations, so these lie at 0; beyond 2 nats it is drawn on a scale
    that is linear up to 1 nat.

    Raises:
        ValueError: an unknown column, or a table without edited conversations.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [(way, turn, 0.5) for way in ("plain", "kept") for turn in (1, 2)]
        >>> table = pd.DataFrame(rows, columns=["way", "turn", "reasoned"]).assign(reasoned_low=0.4, reasoned_high=0.6)
        >>> kv.figures.plot_turns(table).axes[0].get_title()
        'kept'
    """
    if column not in _LABELS:
        raise ValueError(f"There is no column {column!r} to draw; choose one of: {', '.join(_LABELS)}.")
    ways = [way for way in dict.fromkeys(table.way) if way != "plain"]
    if not ways:
        raise ValueError(
            "The table holds plain conversations only; pass the one that kv.analysis.summarise_turns returned."
        )
    lines = -(-len(ways) // _COLUMNS)
    size = (TWO_COLUMNS, 0.6 + 1.35 * lines)
    figure, axes = plt.subplots(
        lines, min(_COLUMNS, len(ways)), figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    plain = table[table.way == "plain"]
    for axis, way in zip(axes.flat, ways, strict=False):
        rows = table[table.way == way]
        low, high = f"random_{column}_low", f"random_{column}_high"
        if low in rows and rows[low].notna().any():
            pad = 0.012 if column != "change" else 0.0  # a band of no height is drawn as a line
            axis.fill_between(
                rows.turn,
                rows[low] - pad,
                rows[high] + pad,
                color=COLORS["random"],
                alpha=0.5,
                linewidth=0,
                label="random vectors",
            )
        level = plain[column] if column != "change" else 0 * plain.turn
        axis.plot(
            plain.turn,
            level,
            "o--",
            color=COLORS["baseline"],
            markerfacecolor="none",
            markersize=5,
            linewidth=0.8,
            label="plain conversation",
        )
        error = np.abs(np.stack([rows[column] - rows[f"{column}_low"], rows[f"{column}_high"] - rows[column]]))
        axis.errorbar(
            rows.turn,
            rows[column],
            error,
            fmt="s-",
            color=COLORS["steered"],
            markersize=3,
            elinewidth=1,
            label="steered",
            clip_on=False,
        )
        axis.set(title=for_figure(way), xticks=sorted(set(table.turn)))
        axis.xaxis.set_tick_params(labelbottom=True)
        if column != "change":
            axis.set(ylim=(-0.05, 1.05), yticks=[0, 0.5, 1])
        elif table.change.abs().max() > 2:
            axis.set_yscale("symlog", linthresh=1.0)
            axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1.0))
            axis.yaxis.set_major_formatter(ScalarFormatter())
    for axis in list(axes.flat)[len(ways) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(_LABELS[column])
    figure.supxlabel("turn", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
