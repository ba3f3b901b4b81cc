"""All cells that a search tried, and the one that it chose."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .._util.terms import measure_name
from .._util.text import for_figure
from .style import COLORS, TWO_COLUMNS, color_of, styled

MARKERS, LINES = "os^Dv<>P", ("-", "--", "-.", ":")


@styled
def plot_tuning(cells: pd.DataFrame, objective: str = "accuracy") -> Figure:
    """What was tuned against relative strength, one panel per method and one line per variant. The ring is the
    chosen cell; where accuracy was tuned, with its 95% Wilson interval.

    Args:
        cells: `Tuning.cells`.
        objective: the column that was maximised: `Tuning.objective`.

    Raises:
        ValueError: no such column.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> cells = pd.DataFrame({"dose": [0.5, 1.0, 2.0], "accuracy": [0.5, 0.9, 0.7], "chosen": [False, True, False]})
        >>> cells = cells.assign(method="cache steering", variant="values", low=0.4, high=0.95, n=40)
        >>> kv.figures.plot_tuning(cells).axes[0].get_title().splitlines()[-1]
        'relative strength 1'
    """
    if objective not in cells:
        raise ValueError(f"The cells have no column {objective!r}; pass the search's own, tuning.objective.")
    share = objective in ("accuracy", "reasoned")
    methods = list(dict.fromkeys(cells.method))
    figure, axes = plt.subplots(
        1, len(methods), figsize=(TWO_COLUMNS, 3.0), layout="constrained", sharey=True, squeeze=False
    )
    for axis, method in zip(axes[0], methods, strict=True):
        own = cells[cells.method == method]
        variants = list(dict.fromkeys(own.variant))
        for i, variant in enumerate(variants):
            line = own[own.variant == variant].sort_values("dose")
            shade = 1 - 0.5 * i / max(1, len(variants) - 1)
            look = dict(marker=MARKERS[i % len(MARKERS)], linestyle=LINES[i % len(LINES)], alpha=shade)
            axis.plot(line.dose, line[objective], color=color_of(method), label=for_figure(variant), **look)
        best = own[own.chosen].iloc[0]
        if objective == "accuracy":
            axis.plot([best.dose, best.dose], [best.low, best.high], color=COLORS["baseline"], linewidth=0.8)
        axis.plot(
            best.dose,
            best[objective],
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor="black",
            markeredgewidth=0.9,
        )
        chosen = f"{for_figure(best.variant)},\nrelative strength {best.dose:.2g}"
        title = f"{for_figure(method)}, {len(own)} cells\nchosen: {chosen}"
        axis.set_title(title, fontsize=7)
        axis.set(xscale="log", ylim=(-0.04, 1.04) if share else (None, None))
        axis.xaxis.set_major_locator(LogLocator(2, numticks=5))
        axis.xaxis.set_major_formatter("{x:.2g}")
        axis.minorticks_off()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=6)
    figure.supxlabel("relative strength: norm of what is added / norm of what it is added to", fontsize=8)
    axes[0, 0].set_ylabel(f"{for_figure(measure_name(objective))}, {int(cells.n.iloc[0])} development questions")
    return figure
