"""Methods side by side at equal divergence."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.terms import measure_name
from .._util.text import for_figure
from .style import TWO_COLUMNS, color_of, label_of, styled

_OWN, _RANDOM = color_of("steered"), color_of("random")


@styled
def plot_methods(table: pd.DataFrame, measure: str = "adopted") -> Figure:
    """Every method's share of replies and their length, beside its random controls, all at the same total KL: the
    table of `kv.analysis.match_divergence` with one divergence. The titles count the methods that lie above all of
    their controls.

    Thin lines are 95% intervals (Wilson's); broad ones hold the middle 95% of the controls. A method that doesn't reach
    the divergence has no mark.

    Args:
        table: one row a method; with a column `model` one row a model and method, and two panels a model.
        measure: `"adopted"`, the share in the intended style, or `"accuracy"`.

    Raises:
        ValueError: several divergences, or a measure that the table hasn't got.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> row = dict(method="mean difference", nats=0.5, adopted=0.9, adopted_low=0.7, adopted_high=1.0, tokens=30.0)
        >>> row |= dict(random_adopted_low=0.0, random_adopted_high=0.1, p_random_adopted=0.025, matched=39)
        >>> kv.figures.plot_methods(pd.DataFrame([row])).axes[0].get_title()
        'At a total KL of 0.5 nats 1 of 1 methods does\\nmore than all of its random controls'
    """
    own, band = ("", "random_") if measure == "accuracy" else (f"{measure}_", f"random_{measure}_")
    p = "p_random" if measure == "accuracy" else f"p_random_{measure}"
    missing = {measure, f"{own}low", f"{band}low", p, "tokens"} - set(table.columns)
    if missing or table.nats.nunique() != 1:
        raise ValueError(f"The table needs one divergence and {', '.join(sorted(missing)) or 'no second one'}.")
    models = dict(list(table.groupby("model", sort=False))) if "model" in table else {"": table}
    names = list(dict.fromkeys(table.method))[::-1]
    figure, axes = plt.subplots(
        1,
        2 * len(models),
        figsize=(TWO_COLUMNS, 1.1 + 0.17 * len(names)),
        layout="constrained",
        sharey=True,
        width_ratios=(2, 1) * len(models),
    )
    for (model, part), shares, lengths in zip(models.items(), axes[::2], axes[1::2], strict=True):
        at = part.method.map(names.index)
        shares.hlines(
            at, part[f"{band}low"], part[f"{band}high"], color=_RANDOM, linewidth=5, label="random controls: middle 95%"
        )
        shares.hlines(at, part[f"{own}low"], part[f"{own}high"], color=_OWN, linewidth=1, label="95% interval")
        shares.plot(part[measure], at, "o", color=_OWN, label="method")
        lengths.plot(part.tokens, at, "o", color=_OWN)
        shares.set(title=_counted(part, measure, p, str(model)), xlim=(-0.03, 1.03))
        shares.set(xlabel="in the style" if measure == "adopted" else measure_name(measure))
        lengths.set(xlabel="tokens a reply", xlim=(0, None))
    if len(models) > 1:
        nats = table.nats.iloc[0]
        figure.suptitle(f"Methods that do more than all of their random controls at a total KL of {nats:g} nats")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    axes[0].set(yticks=range(len(names)), yticklabels=[label_of(name) for name in names])
    axes[0].set(ylim=(-0.6, len(names) - 0.4))
    return figure


def _counted(part: pd.DataFrame, measure: str, p: str, model: str) -> str:
    """How many methods lie above all of their controls, in words."""
    above = int((part[p] <= 1 / (part.matched + 1) + 1e-9).sum())
    reached = int(part[measure].notna().sum())
    if model:
        return f"{for_figure(model)}: {above} of {reached}"
    return (
        f"At a total KL of {part.nats.iloc[0]:g} nats {above} of {reached} methods {'does' if above == 1 else 'do'}\n"
        f"more than all of {'its' if above == 1 else 'their'} random controls"
    )
