"""The logit lens of a steered and a plain run: chosen tokens by layer, and the divergence of the two runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.text import for_figure
from .style import COLORS, ONE_COLUMN, TWO_COLUMNS, styled, tint


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

    Left, a bar after each layer; black lines are 95% intervals over prompts, blue ones hold the middle 95% of random
    vectors. Right, a group of bars for each token that is read, a bar after each layer (of more than four layers, four
    at even distances), the later the darker.

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
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(TWO_COLUMNS, 2.3), layout="constrained", sharey=True, width_ratios=(1, 1.6)
    )
    error = np.abs(np.stack([first.kl - first.low, first.high - first.kl]))
    bars = dict(color=COLORS["steered"], ecolor="black", error_kw={"elinewidth": 0.8})
    left.bar(first.layer - 0.15, first.kl, 0.5, yerr=error, label="steered", **bars)
    if "random_low" in first:
        least = 0.01 * float(first.high.max())  # a bar of no height is drawn as a line
        look = dict(color=COLORS["random"], label="random vectors, middle 95%")
        left.bar(first.layer + 0.25, first.random_high - first.random_low + least, 0.2, first.random_low, **look)
    left.set(xlabel="after layer", ylabel="KL to the plain run, nats", title="offset token", xticks=_ticks(first.layer))
    left.set_ylim(0, max(0.1, left.get_ylim()[1]))  # a tenth of a nat is little: less shall look like nothing
    every = sorted(set(divergence.layer))
    shown = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, min(4, len(every))).round().astype(int))]
    width = 0.8 / len(shown)
    for number, layer in enumerate(shown):
        own = divergence[divergence.layer == layer]
        place = own.step + (number - (len(shown) - 1) / 2) * width
        color = tint(COLORS["steered"], (number + 1) / len(shown))
        right.bar(place, own.kl, width, color=color, edgecolor=COLORS["steered"], linewidth=0.4, label=f"layer {layer}")
    right.set(xlabel="token read (0: offset token)", title="along the text", xticks=_ticks(divergence.step))
    for axis in (left, right):
        axis.legend(loc="upper left" if axis is left else "upper right", title=None if axis is left else "after")
    return figure


def _ticks(values: pd.Series) -> list[int]:
    """At most ten whole numbers."""
    found = sorted(set(values))
    return [int(x) for x in found[:: -(-len(found) // 10)]]
