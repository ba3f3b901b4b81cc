"""Effects in single heads: the parts of each head's change, and analyses against what its attention knockout costs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .._util.text import for_figure
from ..stats.averaging import over_prompts
from .style import COLORS, ONE_COLUMN, PARTS, TWO_COLUMNS, attach, styled

_PARTS = {"value": (PARTS["values"], ""), "reweighting": (PARTS["keys"], "////"), "indirect": ("#bbbbbb", "....")}
_MARK = "#4d4d4d"  # heads are of no kind of intervention
_FLOOR = 1e-4  # nats; below, the axis is linear


@styled
def plot_attribution(table: pd.DataFrame, step: int = 0, most: int = 16) -> Figure:
    """The parts of each head's change, along the change itself and on the logit: a table of
    `kv.analysis.attribute_heads`.

    Bars are means over prompts, black lines the whole with its 95% bootstrap interval, pale blue marks the middle 95%
    of random vectors' wholes.

    Args:
        table: with controls or without.
        step: which decode step.
        most: heads drawn, those that change most.

    Raises:
        ValueError: a step that the table hasn't got.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> heads = [(prompt, layer, head) for prompt in (0, 1) for layer in (0, 1) for head in (0, 1)]
        >>> table = pd.DataFrame(heads, columns=["prompt", "layer", "head"]).assign(step=0, control_of=None)
        >>> table["intervention"] = "cache steering"
        >>> parts = {"value": 2.0, "reweighting": 0.5, "indirect": -0.5}
        >>> table = table.assign(change=2.0, logit=2.0, **parts, **{f"logit_{part}": x for part, x in parts.items()})
        >>> kv.figures.plot_attribution(table, most=4).axes[0].get_ylabel()
        'layer.query head'
    """
    at = table[table.step == step]
    if at.empty:
        raise ValueError(f"The table has no step {step}; it has {', '.join(map(str, sorted(set(table.step))))}.")
    wholes = {whole: over_prompts(at, whole).set_index(["layer", "head"]) for whole in ("change", "logit")}
    heads = sorted(wholes["change"].change.sort_values(ascending=False, kind="stable").index[:most])
    means = at[at.control_of.isna()].groupby(["layer", "head"]).mean(numeric_only=True).loc[heads]
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 0.8 + 0.14 * len(heads)), layout="constrained", sharey=True)
    place = np.arange(len(heads))
    for axis, (whole, prefix) in zip(axes, {"change": "", "logit": "logit_"}.items(), strict=True):
        right, left = np.zeros(len(heads)), np.zeros(len(heads))
        for part, (color, hatch) in _PARTS.items():
            values = means[f"{prefix}{part}"].to_numpy()
            start = np.where(values >= 0, right, left)
            axis.barh(
                place,
                values,
                left=start,
                color=color,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
                height=0.7,
                label=part,
            )
            right, left = right + np.clip(values, 0, None), left + np.clip(values, None, 0)
        own = wholes[whole].loc[heads]
        error = np.abs(np.stack([own[whole] - own.low, own.high - own[whole]]))
        axis.errorbar(
            own[whole], place, xerr=error, fmt="|", color="black", elinewidth=0.8, markersize=5, label="whole"
        )
        if "random_low" in own:
            axis.hlines(
                place + 0.42,
                own.random_low,
                own.random_high,
                color=COLORS["random"],
                linewidth=2,
                label="whole, random vectors",
            )
        axis.axvline(0, color="black", linewidth=0.5)
    axes[0].set(yticks=place, yticklabels=[f"{a}.{b}" for a, b in heads], ylabel="layer.query head")
    axes[0].set_xlabel("change of what the head writes (length in the residual stream)")
    axes[0].invert_yaxis()
    for axis in axes:
        axis.margins(x=0.04)
    axes[1].set_xlabel("direct effect on the next token's logit (logits)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5)
    parts = means[[f"{prefix}{part}" for prefix in ("", "logit_") for part in _PARTS]]
    named = [
        own.loc[heads].rename(columns=lambda name, whole=whole: name if name == whole else f"{whole}_{name}")
        for whole, own in wholes.items()
    ]
    return attach(figure, parts.join(named))


@styled
def plot_judged(
    named: Mapping[str, pd.DataFrame], knocked_out: pd.DataFrame, column: str = "first", k: int = 3
) -> Figure:
    """What each analysis says of each head against what the slot's attention knockout in that head costs: the tables
    that `kv.analysis.judge_heads` takes.

    Filled marks are the k heads that cost most, with their names; open ones with names are those that the analysis
    names instead. Lines on the marks are 95% bootstrap intervals over prompts. The dotted rule is the most that another
    slot is worth, knocked out in all heads; where the slot itself is worth no more, no head is named.

    Raises:
        ValueError: nothing to draw.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> heads = [(prompt, layer, head) for prompt in (0, 1) for layer in (0, 1) for head in (0, 1)]
        >>> said = pd.DataFrame(heads, columns=["prompt", "layer", "head"]).assign(logit=[1.0, 2.0, 3.0, 4.0] * 2)
        >>> single = said.drop(columns="logit").assign(way="one head", slot=-1, first=[0.1, 0.2, 0.3, 0.4] * 2)
        >>> others = [dict(way=way, slot=slot, prompt=p, first=nats)
        ...           for way, slot, nats in (("everything", -1, 2.0), ("other slot", -2, 0.1)) for p in (0, 1)]
        >>> costs = pd.concat([single, pd.DataFrame(others)])
        >>> kv.figures.plot_judged({"attribution": said}, costs, k=1).axes[0].get_xlabel()
        'attribution'
    """
    if not named:
        raise ValueError("There is no analysis to draw; pass at least one table by its name.")
    single = knocked_out[knocked_out.way == "one head"].astype({"layer": int, "head": int})
    costs = over_prompts(single, column).set_index(["layer", "head"])
    cost = costs[column]
    other = knocked_out[knocked_out.way == "other slot"].groupby("slot")[column].mean().max()
    width = ONE_COLUMN if len(named) < 3 else TWO_COLUMNS
    figure, axes = plt.subplots(1, len(named), figsize=(width, 2.5), layout="constrained", sharey=True, squeeze=False)
    drawn = {}
    found = knocked_out[knocked_out.way == "everything"][column].mean() > other
    true = set(cost.sort_values(ascending=False, kind="stable").index[: k if found else 0])
    costly = cost.index.isin(list(true))
    for axis, (name, table) in zip(axes[0], named.items(), strict=True):
        said = _sizes(table).reindex(cost.index)
        value = said.value
        best = set(value.sort_values(ascending=False, kind="stable").index[: k if found else 0])
        axis.hlines(cost, said.value_low, said.value_high, color=_MARK, linewidth=0.6, alpha=0.7)
        axis.vlines(value, costs.low, costs.high, color=_MARK, linewidth=0.6, alpha=0.7)
        for chosen, fill, label in (
            (costly, _MARK, f"the {k} heads that cost most"),
            (~costly, "white", "other heads"),
        ):
            if not chosen.any():  # an empty line would have no place in the layout
                continue
            axis.plot(
                value[chosen],
                cost[chosen],
                "o",
                color=_MARK,
                markerfacecolor=fill,
                markersize=4,
                linestyle="none",
                clip_on=False,
                label=label,
            )
        for head in true | best:
            far = value[head] > 0.6 * value.max()
            text = f"{head[0]}.{head[1]}"
            axis.annotate(
                text,
                (value[head], cost[head]),
                xytext=(-4 if far else 4, 3),
                textcoords="offset points",
                ha="right" if far else "left",
                fontsize=6,
            )
        axis.axhline(
            other, color=COLORS["random"], linestyle=":", linewidth=1, label="another position, all heads knocked out"
        )
        axis.set_yscale("symlog", linthresh=_FLOOR, linscale=0.4)
        axis.set(xlabel=for_figure(name), ylim=(-0.2 * _FLOOR, 3 * max(cost.max(), other, 10 * _FLOOR)))
        axis.margins(x=0.06)
        drawn[name] = said.assign(nats=cost, nats_low=costs.low, nats_high=costs.high).reset_index()
    axes[0, 0].set_ylabel("nats lost by attention knockout")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3 if width == TWO_COLUMNS else 1
    )
    return attach(figure, drawn, ["analysis"])


def _sizes(table: pd.DataFrame) -> pd.DataFrame:
    """By head, the size of the mean over prompts of what a table says in its last column, and its 95% bootstrap
    interval; of means alone there is none.
    """
    column = table.columns[-1]
    if "prompt" not in table.columns:
        return (
            table.set_index(["layer", "head"])[[column]]
            .abs()
            .set_axis(["value"], axis=1)
            .assign(value_low=np.nan, value_high=np.nan)
        )
    found = over_prompts(table[["prompt", "layer", "head", column]], column).set_index(["layer", "head"])
    ends = found[["low", "high"]].abs()
    low = ends.min(axis=1).where(found.low * found.high > 0, 0.0)  # an interval around 0 holds sizes down to it
    return pd.DataFrame(dict(value=found[column].abs(), value_low=low, value_high=ends.max(axis=1)))
