"""Do the analyses name the heads that matter? Their ranking against exhaustive knock-out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import hypergeom, spearmanr

_RESAMPLES = 1000
_NOTHING = 1e-5  # nats; costs below are mostly rounding, and their order says nothing


def judge_heads(named: Mapping[str, pd.DataFrame], knocked_out: pd.DataFrame, column: str = "first", k: int = 3, *, seed: int = 0) -> pd.DataFrame:
    """Rank heads by each analysis and by what hiding the slot from that head alone costs, and compare the ranks.

    A head whose loss others make up for looks unimportant to single knock-outs: they are the measure here, not the truth. Where hiding the slot from
    everything costs no more than hiding another slot, there is nothing to be found, and no agreement is reported. Heads that cost less than 0.00001 nats
    cost nothing, and are tied.

    Args:
        named: by name, a table with a row a prompt, layer and head, and its values in the last column; their size counts.
        knocked_out: of `nats_of_reading`, with the ways `"everything"`, `"one head"` and `"other slot"`.
        column: `"first"`, the nats of the first new token, or `"nats"`, of the whole text.
        k: how many heads are named.
        seed: of the bootstrap.

    Returns:
        A row an analysis: `heads`, `found` (whether hiding the slot costs more than hiding any other one drawn), Spearman's `rank` correlation with a 95%
        bootstrap interval `low`, `high` over prompts; `hits` of the `k` heads that are named, among the k that cost most, `chance`, how many are expected of
        names drawn by lot, and `p_hits`, the chance of as many or more; `named`, `true`, these heads as layer.head.

    Raises:
        ValueError: nothing to judge, a table that lacks a way, analyses of other heads than those knocked out, or a k that isn't 1 to the number of heads.
    """
    if not named:
        raise ValueError("There is no analysis to judge; pass at least one table by its name.")
    missing = [way for way in ("everything", "one head", "other slot") if not (knocked_out.way == way).any()]
    if missing:
        raise ValueError(f"The knock-outs lack the way {missing[0]!r}; run nats_of_reading with 'everything', 'one head' and 'other slot'.")
    truth = _by_prompt(knocked_out[knocked_out.way == "one head"], column)
    if not 1 <= k <= truth.shape[1]:
        raise ValueError(f"k must be 1 to {truth.shape[1]}, the number of heads, not {k}.")
    of_way = {way: knocked_out[knocked_out.way == way] for way in ("everything", "other slot")}
    found = bool(of_way["everything"][column].mean() > of_way["other slot"].groupby("slot")[column].mean().max())
    return pd.DataFrame([dict(analysis=name, heads=truth.shape[1], found=found) | _judge(name, table, truth, k, found, seed) for name, table in named.items()])


def _judge(name: str, table: pd.DataFrame, truth: pd.DataFrame, k: int, found: bool, seed: int) -> dict[str, Any]:
    values = _by_prompt(table, table.columns[-1]).abs()
    if list(values.columns) != list(truth.columns):
        raise ValueError(f"{name!r} is about other heads than those that were knocked out; pass a row for each layer and head, of one intervention and step.")
    best, true = (list(means.sort_values(ascending=False, kind="stable").index[:k]) for means in (values.mean(), truth.mean()))
    hits = len(set(best) & set(true))
    heads = truth.shape[1]
    row: dict[str, Any] = dict(rank=np.nan, low=np.nan, high=np.nan, k=k, hits=np.nan, chance=k * k / heads, p_hits=np.nan)
    if found:
        random = np.random.default_rng(seed)
        same = list(values.index) == list(truth.index)
        each = []
        for _ in range(_RESAMPLES):
            ours = random.integers(0, len(values), len(values))
            theirs = ours if same else random.integers(0, len(truth), len(truth))
            each.append(_rank(values.to_numpy()[ours].mean(0), truth.to_numpy()[theirs].mean(0)))
        low, high = np.nanquantile(each, [0.025, 0.975])
        row |= dict(rank=_rank(values.mean().to_numpy(), truth.mean().to_numpy()), low=float(low), high=float(high), hits=hits)
        row["p_hits"] = float(hypergeom.sf(hits - 1, heads, k, k))
    return row | dict(named=_names(best), true=_names(true) if found else "")


def _by_prompt(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Prompts by heads.

    Raises:
        ValueError: several rows of one prompt and head.
    """
    if table.duplicated(["prompt", "layer", "head"]).any():
        raise ValueError("A table to judge has one row a prompt, layer and head; keep one intervention, step and way of it.")
    wide = table.astype({"layer": int, "head": int}).pivot(index="prompt", columns=["layer", "head"], values=column)
    return wide.sort_index(axis=0).sort_index(axis=1).astype(float)


def _rank(ours: np.ndarray, cost: np.ndarray) -> float:
    theirs = np.where(cost < _NOTHING, 0.0, cost)
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return float("nan")
    return float(spearmanr(ours, theirs).statistic)


def _names(heads: list[Any]) -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads)
