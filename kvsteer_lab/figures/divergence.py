"""Divergence of a steered model from the plain one at each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.text import for_figure
from .style import TWO_COLUMNS, attach, color_of, styled

LOOKS: list[dict[str, Any]] = [
    dict(linestyle="-", linewidth=3.2, alpha=0.4),
    *(dict(linestyle=dash, linewidth=1.2) for dash in ("--", ":", "-.")),
]
"""Where texts agree, a thin line lies on a broad one and both are seen."""


@styled
def plot_divergence(frames: Mapping[tuple[str, str], pd.DataFrame], steps: int = 32) -> Figure:
    """Mean KL(steered || plain) in nats at each token: `Divergence.to_frame()` by (method, text that is read), a panel
    a method.

    Bands hold the middle 90% of the texts.

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
    for axis, method in zip(axes[0], methods, strict=True):
        for i, text in enumerate(texts):
            frame = frames.get((method, text))
            if frame is None:
                continue
            groups = frame[frame.step < steps].groupby("step").kl
            band = groups.quantile([0.05, 0.95]).unstack()
            axis.fill_between(band.index + 1, band[0.05], band[0.95], color=color_of(method), alpha=0.12, linewidth=0)
            axis.plot(
                band.index + 1, groups.mean(), color=color_of(method), label=for_figure(text), **LOOKS[i % len(LOOKS)]
            )
        axis.set(title=for_figure(method), xlabel="token")
        axis.set_yscale("symlog", linthresh=0.1)
        axis.legend(loc="best")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("KL to the plain model, nats")
    return attach(figure, {key: frame[frame.step < steps] for key, frame in frames.items()}, ("method", "text"))
