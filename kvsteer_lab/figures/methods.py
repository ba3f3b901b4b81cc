"""Methods side by side at equal divergence."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.text import for_figure
from .style import TWO_COLUMNS, color_of, styled

_OWN, _RANDOM = color_of("steered"), color_of("random")


@styled
def plot_methods(table: pd.DataFrame, measure: str = "adopted") -> Figure:
    """Every method's share of replies and their length, beside its random controls, all at the same divergence: the
    table of `kv.analysis.match_divergence` with one divergence. The title counts the methods that lie above all of
    their controls.

    Thin lines are 95% intervals (Wilson's); broad ones hold the middle 95% of the controls. A method that doesn't reach
    the divergence has no mark.

    Args:
        table: one row a method.
        measure: `"adopted"`, the share in the intended style, or `"accuracy"`.

    Raises:
        ValueError: several divergences, or a measure that the table hasn't got.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> row = dict(method="mean difference", nats=0.5, adopted=0.9, adopted_low=0.7, adopted_high=1.0, tokens=30.0)
        >>> row |= dict(random_adopted_low=0.0, random_adopted_high=0.1, p_random_adopted=0.025, matched=39)
        >>> kv.figures.plot_methods(pd.DataFrame([row])).axes[0].get_title()
        'At 0.5 nats 1 of 1 methods does more than\\nall of its random controls'
    """
    own, band = ("", "random_") if measure == "accuracy" else (f"{measure}_", f"random_{measure}_")
    p = "p_random" if measure == "accuracy" else f"p_random_{measure}"
    missing = {measure, f"{own}low", f"{band}low", p, "tokens"} - set(table.columns)
    if missing or table.nats.nunique() != 1:
        raise ValueError(f"The table needs one divergence and {', '.join(sorted(missing)) or 'no second one'}.")
    part = table[::-1].reset_index(drop=True)
    figure, axes = plt.subplots(
        1, 2, figsize=(TWO_COLUMNS, 0.9 + 0.17 * len(part)), layout="constrained", sharey=True, width_ratios=(2, 1)
    )
    axes[0].hlines(part.index, part[f"{band}low"], part[f"{band}high"], color=_RANDOM, linewidth=5)
    axes[0].hlines(part.index, part[f"{own}low"], part[f"{own}high"], color=_OWN, linewidth=1)
    axes[0].plot(part[measure], part.index, "o", color=_OWN)
    axes[1].plot(part.tokens, part.index, "o", color=_OWN)
    above = int((part[p] <= 1 / (part.matched + 1) + 1e-9).sum())
    reached = int(part[measure].notna().sum())
    title = (
        f"At {table.nats.iloc[0]:g} nats {above} of {reached} methods {'does' if above == 1 else 'do'} more than\n"
        f"all of {'its' if above == 1 else 'their'} random controls"
    )
    axes[0].set(title=title, xlabel="in the style" if measure == "adopted" else measure, xlim=(-0.03, 1.03))
    axes[0].set(yticks=part.index, yticklabels=[for_figure(name) for name in part.method], ylim=(-0.6, len(part) - 0.4))
    axes[1].set(xlabel="tokens a reply", xlim=(0, None))
    return figure
