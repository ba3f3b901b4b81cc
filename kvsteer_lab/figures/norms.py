"""Norms of the vectors: per layer and head, and relative to the slot that they are added to."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..vectors.kv import KVVectors
from .style import AMOUNT, COLORS, ONE_COLUMN, PARTS, TWO_COLUMNS, attach, styled


@styled
def plot_norms(vectors: KVVectors) -> Figure:
    """Heat maps of |S^K| and |S^V|, one row per layer and one column per KV head.

    Raises:
        ValueError: no vectors.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> card = kv.vectors.Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1)
        >>> figure = kv.figures.plot_norms(kv.KVVectors(torch.ones(2, 2, 4), torch.ones(2, 2, 4), card))
        >>> [axis.get_title() for axis in figure.axes[:2]]
        ['keys', 'values']
    """
    if not isinstance(vectors, KVVectors):
        raise ValueError(f"plot_norms draws vectors, not a {type(vectors).__name__}; pass kv.KVVectors.")
    table = vectors.norms()
    height = 0.9 + 0.22 * vectors.n_layers
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, min(height, 8)), layout="constrained", sharey=True)
    for axis, name, symbol in zip(axes, ("keys", "values"), ("|S^K|", "|S^V|"), strict=True):
        grid = table.pivot(index="layer", columns="head", values=name)
        sns.heatmap(
            grid, ax=axis, cmap=AMOUNT, vmin=0, annot=grid.size <= 32, fmt=".3g", cbar_kws={"label": f"${symbol}$"}
        )
        axis.set(title=f"{name}", xlabel="KV head", ylabel="layer" if axis is axes[0] else "")
        axis.tick_params(axis="y", rotation=0)
    return attach(figure, table)


@styled
def plot_relative_norms(relative: pd.DataFrame) -> Figure:
    """The relative strength at coefficient 1, per layer: the table that `KVVectors.relative_to` gives.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> figure = kv.figures.plot_relative_norms(pd.DataFrame({"layer": [0, 1], "keys": [0.1, 0.2],
        ...                                                       "values": [0.9, 1.4]}))
        >>> figure.axes[0].get_ylabel()
        'relative strength at coefficient 1'
    """
    figure, axis = plt.subplots(figsize=(ONE_COLUMN, 2.2), layout="constrained")
    axis.plot(relative.layer, relative["keys"], "o--", color=PARTS["keys"], label="keys, $|S^K|/|K|$")
    axis.plot(relative.layer, relative["values"], "s-", color=PARTS["values"], label="values, $|S^V|/|V|$")
    axis.axhline(1, color=COLORS["baseline"], linewidth=0.6, zorder=0)
    axis.annotate(
        "as large as what was there",
        (relative.layer.iloc[-1], 1),
        ha="right",
        va="bottom",
        fontsize=6,
        color=COLORS["baseline"],
    )
    axis.set(
        xlabel="layer",
        ylabel="relative strength at coefficient 1",
        xticks=relative.layer if len(relative) <= 16 else relative.layer[:: len(relative) // 8],
    )
    axis.set_ylim(bottom=0)
    axis.margins(y=0.25)
    axis.legend(loc="best")
    return figure
