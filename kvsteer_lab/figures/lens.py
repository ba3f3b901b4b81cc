"""The logit lens of a steered and a plain run: chosen tokens by layer, and the divergence of the two runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from .._util.text import for_figure
from .style import COLORS, ONE_COLUMN, TWO_COLUMNS, styled

_LEAST = 1e-3
"""Nats below which a divergence is drawn as nothing."""


@styled
def plot_lens(tokens: pd.DataFrame, step: int = 0) -> Figure:
    """Log-probability of each chosen token after each layer, a panel a token: the `tokens` of
    `kv.analysis.logit_lens`.

    Lines on the steered points are 95% intervals of the change; the band holds the middle 95% of random vectors,
    counted from the plain run.

    Raises:
        ValueError: a step that the table doesn't hold.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> tokens = pd.DataFrame({"layer": [0, 1], "plain": [-9.0, -6.0], "steered": [-9.0, -1.0],
        ...                        "change": [0.0, 5.0]})
        >>> tokens = tokens.assign(step=0, token="Step", low=[0.0, 4.0], high=[0.0, 6.0])
        >>> kv.figures.plot_lens(tokens).axes[0].get_title()
        "'Step'"
    """
    here = tokens[tokens.step == step]
    if here.empty:
        raise ValueError(
            f"The table holds no step {step}; choose one of: {', '.join(map(str, sorted(set(tokens.step))))}."
        )
    names = list(dict.fromkeys(here.token))
    width = ONE_COLUMN if len(names) <= 2 else TWO_COLUMNS
    figure, axes = plt.subplots(1, len(names), figsize=(width, 2.3), layout="constrained", sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        rows = here[here.token == name]
        if "random_low" in rows:
            low, high = rows.plain + rows.random_low, rows.plain + rows.random_high
            axis.fill_between(
                rows.layer, low, high, color=COLORS["random"], alpha=0.4, linewidth=0, label="random vectors"
            )
        error = np.abs(np.stack([rows.change - rows.low, rows.high - rows.change]))
        axis.errorbar(
            rows.layer,
            rows.steered,
            error,
            fmt="s-",
            color=COLORS["steered"],
            markersize=3,
            elinewidth=1,
            label="steered",
        )
        axis.plot(
            rows.layer,
            rows.plain,
            "o--",
            color=COLORS["baseline"],
            markersize=5,
            markerfacecolor="none",
            linewidth=1,
            label="plain",
        )
        axis.set(title=for_figure(repr(name)), xlabel="after layer", xticks=_ticks(rows.layer))
    axes[0, 0].set_ylabel("log-probability, nats")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def plot_lens_divergence(divergence: pd.DataFrame) -> Figure:
    """KL(steered || plain) of the lenses: at the offset token beside random vectors, and along the text: the
    `divergence` of `kv.analysis.logit_lens`.

    Left, the lines on the points are 95% intervals over prompts and the band holds the middle 95% of random vectors.
    Right, white is below 0.001 nats.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [(step, layer, 0.5 * layer) for step in (0, 1) for layer in (0, 1)]
        >>> table = pd.DataFrame(rows, columns=["step", "layer", "kl"])
        >>> figure = kv.figures.plot_lens_divergence(table.assign(low=table.kl, high=table.kl))
        >>> [axis.get_title() for axis in figure.axes[:2]]
        ['offset token', 'along the text']
    """
    first = divergence[divergence.step == 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.3), layout="constrained", width_ratios=(1, 1.4))
    if "random_low" in first:
        left.fill_between(
            first.layer,
            first.random_low,
            first.random_high,
            color=COLORS["random"],
            alpha=0.4,
            linewidth=0,
            label="random vectors",
        )
    error = np.abs(np.stack([first.kl - first.low, first.high - first.kl]))
    left.errorbar(
        first.layer, first.kl, error, fmt="s-", color=COLORS["steered"], markersize=3, elinewidth=1, label="steered"
    )
    left.set(xlabel="after layer", ylabel="KL to the plain run, nats", title="offset token", xticks=_ticks(first.layer))
    left.set_ylim(0, max(0.1, left.get_ylim()[1]))  # a tenth of a nat is little: less shall look like nothing
    left.legend(loc="best")
    grid = divergence.pivot(index="layer", columns="step", values="kl")
    most = max(1.0, float(grid.max().max()))
    shown = grid.where(grid >= _LEAST)
    image = right.imshow(shown, origin="lower", aspect="auto", cmap="Oranges", norm=LogNorm(_LEAST, most))
    right.set(xlabel="token read (0: offset token)", ylabel="after layer", title="along the text")
    right.set(xticks=_ticks(pd.Series(range(grid.shape[1]))), yticks=_ticks(pd.Series(range(grid.shape[0]))))
    figure.colorbar(image, ax=right, label="nats")
    return figure


def _ticks(values: pd.Series) -> list[int]:
    """At most ten whole numbers."""
    found = sorted(set(values))
    return [int(x) for x in found[:: -(-len(found) // 10)]]
