"""How many replies take over a style: under its vectors, beside the baseline and random vectors of the same size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .._util.text import for_figure
from .geometry import words
from .style import COLORS, ONE_COLUMN, styled


@styled
def plot_adoption(table: pd.DataFrame) -> Figure:
    """Share of replies in each style under that style's vectors, with its 95% interval; beside it the baseline's share,
    and one tick for each random vector of the same size.

    Args:
        table: one row a style and vector: `style`, `opening` (how the style's replies begin), `vector` ("baseline",
            "steering", or "random i"), `n` questions, `adopted`, and its interval `low`, `high`.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = dict(style="stepwise", opening="Step 1", vector=["baseline", "steering", "random 0"], n=16)
        >>> table = pd.DataFrame(rows | dict(adopted=[0.0, 1.0, 0.1], low=[0, 0.8, 0], high=[0.2, 1, 0.3]))
        >>> kv.figures.plot_adoption(table).axes[0].get_xlabel()
        'share of 16 replies in the style'
    """
    styles = list(dict.fromkeys(table["style"]))
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 0.85 + 0.4 * len(styles)), layout="constrained")
    for y, style in enumerate(reversed(styles)):
        own = table[table["style"] == style].set_index("vector")
        random = own[own.index.str.startswith("random")].adopted
        # vectors with the same share stand above one another
        rank = random.groupby(random).cumcount().to_numpy()
        rise = 0.1 + 0.34 * rank / max(1, int(rank.max()) if len(rank) else 1)
        axis.plot(random, y + rise, "|", color=COLORS["random"], markersize=4, markeredgewidth=1)
        steered, plain = own.loc["steering"], own.loc["baseline"]
        axis.plot([steered.low, steered.high], [y, y], color=COLORS["steered"], linewidth=1.2)
        axis.plot(steered.adopted, y, "o", color=COLORS["steered"], markersize=6)
        axis.plot(plain.adopted, y - 0.2, "D", color=COLORS["baseline"], markersize=4, markerfacecolor="white")
    openings = table.drop_duplicates("style").set_index("style").opening
    labels = [f"{words(style)}\n“{for_figure(openings[style])} …”" for style in reversed(styles)]
    axis.set(yticks=np.arange(len(styles)), yticklabels=labels, xlim=(-0.04, 1.04), ylim=(-0.5, len(styles) - 0.4))
    axis.set(xlabel=f"share of {int(table.n.iloc[0])} replies in the style")
    kinds = [("o", "steered", "its vectors"), ("D", "baseline", "baseline"), ("|", "random", "random vectors")]
    handles = [
        Line2D([], [], marker=marker, linestyle="", color=COLORS[kind], markersize=5, label=label)
        for marker, kind, label in kinds
    ]
    handles[1].set_markerfacecolor("white")
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1, handletextpad=0.2)
    return figure
