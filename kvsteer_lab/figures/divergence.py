"""Divergence of a steered model from the plain one at each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .._util.text import for_figure
from .style import TWO_COLUMNS, attach, color_of, label_of, styled, tint

_HATCHES = ("", "////", "....", "xxxx")
_SHADES = (1.0, 0.45, 0.7, 0.25)


@styled
def plot_divergence(frames: Mapping[tuple[str, str], pd.DataFrame], steps: int = 8) -> Figure:
    """Mean KL(steered || plain) in nats at each token: `Divergence.to_frame()` by (method, text that is read), a panel
    a method and a bar a token, beside one another for the texts.

    Black lines hold the middle 90% of the texts.

    Args:
        frames: the tables.
        steps: how many tokens are drawn, from the first.

    Raises:
        ValueError: keys that aren't pairs of a method and a text.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> frame = pd.DataFrame({"prompt": [0, 0, 1, 1], "step": [0, 1, 0, 1], "kl": [2.0, 0.1, 3.0, 0.2]})
        >>> figure = kv.figures.plot_divergence({("cache steering", "the baseline's text"): frame})
        >>> figure.axes[0].get_title()
        'cache steering'
    """
    wrong = [key for key in frames if not isinstance(key, tuple) or len(key) != 2]
    if wrong:
        raise ValueError(
            f"The key {wrong[0]!r} names no method and text; pass tables by pairs, such as ('cache steering', 'its own"
            " text')."
        )
    methods = list(dict.fromkeys(method for method, _ in frames))
    texts = list(dict.fromkeys(text for _, text in frames))
    figure, axes = plt.subplots(
        1, len(methods), figsize=(TWO_COLUMNS, 2.4), layout="constrained", sharey=True, squeeze=False
    )
    width = 0.8 / len(texts)
    for axis, method in zip(axes[0], methods, strict=True):
        for i, text in enumerate(texts):
            frame = frames.get((method, text))
            if frame is None:
                continue
            groups = frame[frame.step < steps].groupby("step").kl
            mean, band = groups.mean(), groups.quantile([0.05, 0.95]).unstack()
            place = mean.index + 1 + (i - (len(texts) - 1) / 2) * width
            error = np.stack([(mean - band[0.05]).clip(lower=0), (band[0.95] - mean).clip(lower=0)])
            look: dict[str, Any] = dict(
                hatch=_HATCHES[i % 4], edgecolor="white", linewidth=0, error_kw={"elinewidth": 0.8}
            )
            color = tint(color_of(method), _SHADES[i % 4])
            axis.bar(place, mean, width, yerr=error, color=color, label=for_figure(text), ecolor="black", **look)
        axis.set(title=label_of(method), xlabel="token")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(loc="best")
    axes[0, 0].set_ylabel("KL to the plain model, nats")
    return attach(figure, {key: frame[frame.step < steps] for key, frame in frames.items()}, ("method", "text"))
