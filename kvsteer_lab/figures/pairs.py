"""Contrastive sets: prompt lengths, and the convergence of the mean difference."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .style import ONE_COLUMN, PARTS, SIDES, styled


@styled
def plot_lengths(lengths: pd.DataFrame) -> Figure:
    """Histogram of prompt lengths on both sides: the table that `analysis.prompt_lengths` gives.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> figure = kv.figures.plot_lengths(pd.DataFrame({"positive": [40, 42, 45], "negative": [20, 21, 24]}))
        >>> figure.axes[0].get_xlabel()
        'tokens in the prompt'
    """
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 2.0), layout="constrained")
    long = lengths.melt(value_vars=["positive", "negative"], var_name="side", value_name="tokens")
    palette = SIDES
    sns.histplot(long, x="tokens", hue="side", bins=30, palette=palette, element="step", alpha=0.4, ax=axis)
    sns.move_legend(axis, "upper center", title=None)
    legend = axis.get_legend()
    assert legend is not None  # seaborn has drawn one
    axis.collections[0].set_hatch("////")  # the side that is drawn first and named last
    legend.get_patches()[-1].set_hatch("////")
    axis.set(xlabel="tokens in the prompt", ylabel="prompts")
    return figure


@styled
def plot_convergence(table: pd.DataFrame) -> Figure:
    """Cosine to held-out pairs against the number of pairs: the table that `analysis.convergence` gives.

    Lines are means over random subsets, bands hold the middle 90% of them.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [(n, part, 1 - 1 / (n + 1)) for n in (1, 4) for part in ("keys", "values")]
        >>> figure = kv.figures.plot_convergence(pd.DataFrame(rows, columns=["n", "part", "cosine"]))
        >>> figure.axes[0].get_xlabel()
        'pairs averaged'
    """
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 2.2), layout="constrained")
    for part, color, marker in (("keys", PARTS["keys"], "o"), ("values", PARTS["values"], "s")):
        groups = table[table.part == part].groupby("n").cosine
        mean, band = groups.mean(), groups.quantile([0.05, 0.95]).unstack()
        axis.fill_between(band.index, band[0.05], band[0.95], color=color, alpha=0.2, linewidth=0)
        axis.plot(mean, marker=marker, color=color, label=part)
    axis.set(
        xscale="log",
        xlabel="pairs averaged",
        ylabel="cosine to the held-out mean",
        ylim=(min(0.0, table.cosine.min()), 1.02),
    )
    axis.set_xticks(sorted(table.n.unique()), [str(n) for n in sorted(table.n.unique())])
    axis.minorticks_off()
    axis.legend(loc="lower right")
    return figure
