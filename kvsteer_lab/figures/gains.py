"""Gains in accuracy over a baseline on the same questions, with intervals and p-values."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.text import for_figure
from .style import TWO_COLUMNS, color_of, label_of, styled


@styled
def plot_gains(table: pd.DataFrame, against: str = "baseline") -> Figure:
    """Gain in accuracy over `against`, in points, one panel per model and task: the table that `kv.compare` gives.

    Lines are the table's 95% intervals; to the right of them stands the exact McNemar test's p, Holm-corrected over
    the whole table.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> row = dict(model="tiny", task="arithmetic", intervention="cache steering", gain=0.2, low=0.1, high=0.3,
        ...            p_holm=0.02)
        >>> figure = kv.figures.plot_gains(pd.DataFrame([row]))
        >>> figure.axes[0].texts[0].get_text()
        'p = 0.02'
    """
    panels = list(table.groupby(["model", "task"], sort=False))
    most = max(len(part) for _, part in panels)
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(TWO_COLUMNS, 0.8 + 0.26 * most),
        layout="constrained",
        sharey=True,
        sharex=True,
        squeeze=False,
    )
    labels = list(dict.fromkeys(table.intervention))
    for axis, ((model, task), part) in zip(axes[0], panels, strict=True):
        axis.axvline(0, color="black", linewidth=0.6)
        for row in part.itertuples():
            y = len(labels) - 1 - labels.index(row.intervention)
            axis.plot([100 * row.low, 100 * row.high], [y, y], color=color_of(row.intervention), linewidth=1)
            axis.plot(100 * row.gain, y, "o", color=color_of(row.intervention))
            p = "p < 0.001" if row.p_holm < 0.001 else f"p = {row.p_holm:.2g}"
            axis.annotate(p, (100 * row.high, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=6)
        title = for_figure(task) if table.model.nunique() == 1 else f"{for_figure(model)}\n{for_figure(task)}"
        axis.set(
            title=title,
            xlabel=f"points over {label_of(against)}",
            yticks=range(len(labels)),
            yticklabels=list(map(label_of, labels[::-1])),
            ylim=(-0.6, len(labels) - 0.4),
        )
        axis.margins(x=0.3 if len(panels) > 1 else 0.15)
    return figure
