"""Comparison of interventions: accuracy with intervals, and the CoT rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.terms import COT_RATE
from .style import TWO_COLUMNS, color_of, label_of, styled


@styled
def plot_comparison(summary: pd.DataFrame) -> Figure:
    """Accuracy and CoT rate of each intervention: the table that `Results.summary` gives.

    Bars of accuracy are 95% Wilson intervals; the one of the random vectors holds the middle 95% of them.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = dict(n=40, accuracy=[0.5, 0.8], low=[0.4, 0.7], high=[0.6, 0.9], reasoned=[0.1, 0.9])
        >>> figure = kv.figures.plot_comparison(pd.DataFrame(rows, index=["baseline", "cache steering"]))
        >>> [axis.get_xlabel() for axis in figure.axes]
        ['accuracy, 40 questions', 'CoT rate']
    """
    place = np.arange(len(summary))[::-1]
    figure, axes = plt.subplots(
        1, 2, figsize=(TWO_COLUMNS, 0.7 + 0.28 * len(summary)), layout="constrained", sharey=True
    )
    for y, (label, row) in zip(place, summary.iterrows(), strict=True):
        color = color_of(str(label))
        axes[0].plot([row.low, row.high], [y, y], color=color, linewidth=1)
        axes[0].plot(row.accuracy, y, "o", color=color)
        axes[1].barh(y, row.reasoned, color=color, height=0.6)
        axes[1].annotate(
            f"{row.reasoned:.2f}", (row.reasoned, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7
        )
    axes[0].set(
        yticks=place,
        yticklabels=list(map(label_of, summary.index)),
        xlim=(-0.03, 1.03),
        xlabel=f"accuracy, {int(summary.n.iloc[0])} questions",
    )
    axes[1].set(xlim=(0, 1.12), xlabel=COT_RATE, xticks=[0, 0.5, 1])
    return figure
