"""Comparison of analyses with exhaustive knock-outs: does an analysis rank heads or layers as the cost of hiding the
slot from each of them does?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from scipy.stats import hypergeom, spearmanr

_RESAMPLES = 1000
_NOTHING = 1e-5  # nats; costs below are mostly rounding, and their order says nothing
_UNITS = {"head": ("one head", ["layer", "head"]), "layer": ("one layer", ["layer"])}
"""By what is judged: the way that hides the slot from each of them, and the columns that name one."""


def judge_heads(
    named: Mapping[str, pd.DataFrame], knocked_out: pd.DataFrame, column: str = "first", k: int = 3, *, seed: int = 0
) -> pd.DataFrame:
    """Rank heads by each analysis and by what hiding the slot from that head alone costs, and compare the ranks.

    A head whose loss others make up for looks unimportant to single knock-outs: they are the measure here, not the
    truth. Where hiding the slot from everything costs no more than hiding another slot, there is nothing to be found,
    and no agreement is reported. Heads that cost less than 0.00001 nats cost nothing, and are tied.

    Args:
        named: by name, a table with one row per prompt, layer and head, and its values in the last column; their size
            counts. A table of means, without prompts, does as well: then the interval is that of the knock-outs alone.
        knocked_out: of `nats_of_reading`, with the ways `"everything"`, `"one head"` and `"other slot"`.
        column: `"first"`, the nats of the first new token, or `"nats"`, of the whole text.
        k: how many heads are named.
        seed: of the bootstrap.

    Returns:
        One row per analysis: `heads`, `found` (whether hiding the slot costs more than hiding any other one drawn),
        Spearman's `rank` correlation with a 95%
        bootstrap interval `low`, `high` over prompts; `hits` of the `k` heads that are named, among the k that cost
        most, `chance`, how many are expected of names drawn by lot, and `p_hits`, the chance of as many or more;
        `named`, `true`, these heads as layer.head.

    Raises:
        ValueError: nothing to judge, a table that lacks a way or a column, analyses of other heads than those knocked
            out, or a k that isn't 1 to the number of heads.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> heads = [(prompt, layer, head) for prompt in (0, 1) for layer in (0, 1) for head in (0, 1)]
        >>> said = pd.DataFrame(heads, columns=["prompt", "layer", "head"]).assign(logit=[1, 2, 3, 4] * 2)
        >>> single = said.drop(columns="logit").assign(way="one head", slot=-1, first=[0.1, 0.2, 0.3, 0.4] * 2)
        >>> others = [dict(way=way, slot=slot, prompt=0, first=nats)
        ...           for way, slot, nats in (("everything", -1, 2.0), ("other slot", -2, 0.1))]
        >>> costs = pd.concat([single, pd.DataFrame(others)])
        >>> kv.analysis.judge_heads({"attribution": said}, costs, k=1)[["rank", "hits", "named"]].values.tolist()
        [[1.0, 1, '1.1']]
    """
    return _judged("head", named, knocked_out, column, k, seed)


def judge_layers(
    named: Mapping[str, pd.DataFrame], knocked_out: pd.DataFrame, column: str = "first", k: int = 1, *, seed: int = 0
) -> pd.DataFrame:
    """Rank layers by each analysis and by what hiding the slot from that layer alone costs: `judge_heads` for layers.

    A small model has few layers, and few orders of them: of four, one in 24 is right by luck, and the first one is
    named right by luck once in four.

    Args:
        named: by name, a table with one row per prompt and layer, or a layer (means), and its values in the last
            column. Values of heads are summed in their layer.
        knocked_out: of `nats_of_reading`, with the ways `"everything"`, `"one layer"` and `"other slot"`.
        column, k, seed: as in `judge_heads`; k counts layers.

    Returns:
        One row per analysis, as `judge_heads` gives it, of `layers`.

    Raises:
        ValueError: as `judge_heads`.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> said = pd.DataFrame({"layer": [0, 1, 2], "size": [0.1, 0.2, 0.3]})
        >>> rows = [("one layer", layer, -1, 0, 0.1 * layer) for layer in range(3)]
        >>> rows += [("everything", None, -1, 0, 2.0), ("other slot", None, -2, 0, 0.1)]
        >>> costs = pd.DataFrame(rows, columns=["way", "layer", "slot", "prompt", "first"])
        >>> kv.analysis.judge_layers({"size": said}, costs)[["rank", "named"]].values.tolist()
        [[1.0, '2']]
    """
    return _judged("layer", named, knocked_out, column, k, seed)


def _judged(
    place: str, named: Mapping[str, pd.DataFrame], knocked_out: pd.DataFrame, column: str, k: int, seed: int
) -> pd.DataFrame:
    way, keys = _UNITS[place]
    if not isinstance(named, Mapping) or not named:
        raise ValueError("There is no analysis to judge; pass at least one table by its name.")
    if column not in ("first", "nats") or not {"way", "slot", "prompt", column, *keys} <= set(knocked_out.columns):
        raise ValueError(
            f"The knock-outs have no costs {column!r} of single {place}s; pass a table of nats_of_reading and its"
            " column 'first' or 'nats'."
        )
    missing = [each for each in ("everything", way, "other slot") if not (knocked_out.way == each).any()]
    if missing:
        raise ValueError(
            f"The knock-outs lack the way {missing[0]!r}; run nats_of_reading with 'everything', {way!r} and 'other"
            " slot'."
        )
    truth = _by_prompt("the knock-outs", knocked_out[knocked_out.way == way], column, keys)
    if not 1 <= k <= truth.shape[1]:
        raise ValueError(f"k must be 1 to {truth.shape[1]}, the number of {place}s, not {k}.")
    of_way = {each: knocked_out[knocked_out.way == each] for each in ("everything", "other slot")}
    found = bool(of_way["everything"][column].mean() > of_way["other slot"].groupby("slot")[column].mean().max())
    rows = []
    for name, table in named.items():
        values = _by_prompt(repr(name), table, str(table.columns[-1]) if len(table.columns) else "", keys).abs()
        if list(values.columns) != list(truth.columns):
            raise ValueError(
                f"{name!r} is about other {place}s than those that were knocked out; pass a row for each {place}, of"
                " one intervention and step."
            )
        rows.append(
            {"analysis": name, f"{place}s": truth.shape[1], "found": found} | _judge(values, truth, k, found, seed)
        )
    return pd.DataFrame(rows)


def _judge(values: pd.DataFrame, truth: pd.DataFrame, k: int, found: bool, seed: int) -> dict[str, Any]:
    best, true = (
        list(means.sort_values(ascending=False, kind="stable").index[:k]) for means in (values.mean(), truth.mean())
    )
    hits = len(set(best) & set(true))
    heads = truth.shape[1]
    row: dict[str, Any] = dict(
        rank=np.nan, low=np.nan, high=np.nan, k=k, hits=np.nan, chance=k * k / heads, p_hits=np.nan
    )
    if found:
        random = np.random.default_rng(seed)
        same = list(values.index) == list(truth.index)
        each = []
        for _ in range(_RESAMPLES):
            ours = random.integers(0, len(values), len(values))
            theirs = ours if same else random.integers(0, len(truth), len(truth))
            each.append(_rank(values.to_numpy()[ours].mean(0), truth.to_numpy()[theirs].mean(0)))
        low, high = np.nanquantile(each, [0.025, 0.975])
        row |= dict(
            rank=_rank(values.mean().to_numpy(), truth.mean().to_numpy()), low=float(low), high=float(high), hits=hits
        )
        row["p_hits"] = float(hypergeom.sf(hits - 1, heads, k, k))
    return row | dict(named=_names(best), true=_names(true) if found else "")


def _by_prompt(name: str, table: pd.DataFrame, column: str, keys: list[str]) -> pd.DataFrame:
    """Prompts by heads or layers; the one prompt of a table of means is called 0.

    Raises:
        ValueError: no rows, no values, or several rows of one prompt and head or layer.
    """
    if (
        table.empty
        or not set(keys) <= set(table.columns)
        or column in (*keys, "prompt")
        or not is_numeric_dtype(table[column])
    ):
        raise ValueError(
            f"Of {name} there is nothing to judge: a table must hold rows with {', '.join(keys)} and, in its last"
            " column, numbers."
        )
    table = table if "prompt" in table.columns else table.assign(prompt=0)[["prompt", *table.columns]]
    single = ["prompt", "layer", *(["head"] if "head" in table.columns and table["head"].notna().any() else [])]
    if table.duplicated(single).any():
        raise ValueError(
            f"A table to judge has one row per {', '.join(single[:-1])} and {single[-1]}; keep one intervention, step"
            " and way of it."
        )
    summed = table.astype(dict.fromkeys(keys, int)).groupby(["prompt", *keys])[column].sum().reset_index()
    wide = summed.pivot(index="prompt", columns=keys if len(keys) > 1 else keys[0], values=column)
    return wide.sort_index(axis=0).sort_index(axis=1).astype(float)


def _rank(ours: np.ndarray, cost: np.ndarray) -> float:
    theirs = np.where(cost < _NOTHING, 0.0, cost)
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return float("nan")
    return float(spearmanr(ours, theirs).statistic)


def _names(places: list[Any]) -> str:
    return ", ".join(".".join(map(str, place if isinstance(place, tuple) else (place,))) for place in places)
