"""The time per token under each method, as a ratio to the plain model with its cache."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .._util.text import for_figure
from .style import TWO_COLUMNS, color_of, label_of, styled

MARKERS = "osD^v"


@styled
def plot_costs(table: pd.DataFrame) -> Figure:
    """Time a token over the plain model's, one panel per model and one marker per batch size: the table that
    `analysis.decode_costs` gives.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"method": ["nothing added", "cache steering"], "ratio": [1.0, 1.02], "low": 0.98,
        ...                       "high": 1.05})
        >>> figure = kv.figures.plot_costs(table.assign(model="tiny", device="a CPU", batch=1))
        >>> figure.axes[0].get_xlabel()
        'time a token / plain, cached'
    """
    panels = list(table.groupby("model", sort=False))
    methods = list(dict.fromkeys(table.method))
    batches = sorted(table.batch.unique())
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(TWO_COLUMNS, 0.9 + 0.32 * len(methods)),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axis, (model, part) in zip(axes[0], panels, strict=True):
        axis.axvline(1, color="black", linewidth=0.6)
        for row in part.itertuples():
            i = batches.index(row.batch)
            y = len(methods) - 1 - methods.index(row.method) + 0.4 * (0.5 * (len(batches) - 1) - i)
            color = color_of("baseline" if row.method.startswith(("plain", "nothing")) else row.method)
            axis.plot([row.low, row.high], [y, y], color=color, linewidth=1)
            axis.plot(row.ratio, y, MARKERS[i], color=color, markerfacecolor=color if i else "white")
            axis.annotate(
                f"{row.ratio:.2f}",
                (max(row.high, row.ratio), y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=6,
            )
        axis.set(
            title=f"{for_figure(model)}\n{for_figure(part.device.iloc[0])}",
            xscale="log",
            xlabel="time a token / plain, cached",
        )
        axis.set_yticks(range(len(methods)), list(map(label_of, methods[::-1])))
        axis.margins(x=0.3)
        axis.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    marks = [
        plt.Line2D([], [], marker=MARKERS[i], color="black", linestyle="", markerfacecolor="black" if i else "white")
        for i in range(len(batches))
    ]
    figure.legend(marks, [f"batch {b}" for b in batches], loc="outside upper center", ncols=len(batches))
    return figure
