"""A replication at a glance: accuracy and length of every method, random vectors beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.text import for_figure
from .style import TWO_COLUMNS, color_of, label_of, styled


@styled
def plot_replication(table: pd.DataFrame) -> Figure:
    """Accuracy and length of every method, a row of panels a task: the table of `kv.replication.comparison_table`.

    Lines are 95% intervals: Wilson's for accuracy, the paired bootstrap's difference from the baseline for length.
    Those of random vectors hold the middle 95% of the vectors. The dashed line is the baseline. A hollow mark is a
    method with fewer questions than the baseline.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> row = dict(task="arithmetic", n=40, accuracy=0.5, low=0.4, high=0.6, tokens=30.0)
        >>> row |= dict(longer_low=None, longer_high=None, tokens_low=None, tokens_high=None)
        >>> figure = kv.figures.plot_replication(pd.DataFrame([row | dict(intervention="baseline")]))
        >>> [axis.get_xlabel() for axis in figure.axes]
        ['accuracy', 'tokens a reply']
    """
    panels = list(table.groupby("task", sort=False))
    heights = [0.5 + 0.17 * len(part) for _, part in panels]
    figure, axes = plt.subplots(
        len(panels),
        2,
        figsize=(TWO_COLUMNS, sum(heights) + 0.4),
        layout="constrained",
        height_ratios=heights,
        squeeze=False,
    )
    for pair, (task, part) in zip(axes, panels, strict=True):
        base = part[part.intervention == "baseline"].iloc[0]
        for place, row in enumerate(part.to_dict("records")):
            y, color = len(part) - 1 - place, color_of(str(row["intervention"]))
            mark: dict[str, Any] = dict(color=color, markerfacecolor=color if row["n"] >= base.n else "white")
            pair[0].plot([row["low"], row["high"]], [y, y], color=color, linewidth=1)
            pair[0].plot(row["accuracy"], y, "o", **mark)
            pair[1].plot(_length(row, base.tokens), [y, y], color=color, linewidth=1)
            pair[1].plot(row["tokens"], y, "o", **mark)
        for axis, middle, name in ((pair[0], base.accuracy, "accuracy"), (pair[1], base.tokens, "tokens a reply")):
            axis.axvline(middle, color="black", linewidth=0.6, linestyle="--", zorder=0)
            axis.set(xlabel=name, ylim=(-0.6, len(part) - 0.4), yticks=range(len(part)))
        pair[0].set(xlim=(-0.02, 1.02), title=f"{for_figure(str(task))}, {int(base.n)} questions")
        pair[0].set_yticklabels([label_of(label) for label in part.intervention[::-1]])
        pair[1].set_yticklabels([])
        pair[1].set_xlim(left=0)
    return figure


def _length(row: Mapping[str, Any], plain: float) -> list[float]:
    """The ends of a length's line; a method without an interval has a line of no length."""
    if pd.notna(row.get("tokens_low")):
        return [row["tokens_low"], row["tokens_high"]]
    if pd.notna(row.get("longer_low")):
        return [plain + row["longer_low"], plain + row["longer_high"]]
    return [row["tokens"], row["tokens"]]
