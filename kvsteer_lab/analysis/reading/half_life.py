"""The half-life of a slot's influence: how many steps of a reply must read it before hiding it costs little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ..._util.progress import counted
from ...interventions.base import Intervention
from ...interventions.checks import check_interventions
from ...models.model import Model
from ...models.prompts import Prompt, as_list
from ...stats.intervals import paired_bootstrap
from ...stats.significance import control_p
from .divergence import knock_out_divergences
from .followed_text import Continuations, follow
from .knock_outs import knock_outs

_RESAMPLES = 1000


@dataclass(frozen=True)
class HalfLife:
    """The tables of `half_life`: how the influence of a slot decreases along the reply.

    Attributes:
        steps: one row per intervention and step: `n`, how many texts are that long; `now`, the nats by which the
            distribution at that step moves when the slot is hidden at that step alone; `left`, the nats that the rest
            of the text loses when the slot is hidden from that step on; both with 95% bootstrap intervals over prompts;
            `share`, what is left of the nats at step 0.
        summary: one row per intervention: `n`, `nats`, all that reading is worth, with its interval `low`, `high`;
            `other`, the most that one of the prompt's other slots is worth, and `p_other`, the share of them (plus one)
            that are worth at least as much; `half_life`, the first step from which on the slot can be hidden and at
            least half of the nats stay, with its interval `half_low`, `half_high`. It is missing where another slot is
            worth as much: then there is nothing to halve.
    """

    steps: pd.DataFrame = field(repr=False)
    summary: pd.DataFrame = field(repr=False)


def half_life(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    interventions: Intervention | Sequence[Intervention] | None = None,
    continuations: Continuations = None,
    *,
    steps: int = 12,
    others: int | None = None,
    slot: int = -1,
    seed: int = 0,
    chat: bool = True,
    offset: str | int = "\n",
    batch_size: int = 64,
    progress: bool = True,
) -> HalfLife:
    """Hide the slot from each step on, along a fixed text, and see how much of its influence that takes away.

    With L(t) the KL(read || hidden from step t on), summed over a text of T tokens, L(0) is what reading the slot is
    worth in this text, L(t) what it is still worth at step t, and L(T) = 0. The half-life is the first t with L(t) <=
    L(0) / 2. What earlier tokens have read and cached stays; so a short half-life means that the slot has been read,
    not that it is forgotten. The text is fixed, so the question is what reading adds to what the text itself says.

    Args:
        model, prompts, continuations, others, slot, seed, chat, offset, batch_size, progress: as in `nats_of_reading`.
        interventions: a half-life each; `None`: the baseline.
        steps: how many tokens of the text; later reading isn't seen.

    Returns:
        Two tables; see `HalfLife`.

    Raises:
        ValueError: a single prompt, or what `nats_of_reading` refuses; before anything is computed.
        KeyboardInterrupt: it was interrupted.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> prompts = [task.chat(q) for q in task.questions("dev", 2)]
        >>> found = kv.analysis.half_life(model, prompts, steering, steps=3, others=2)
        >>> found.steps.step.tolist(), found.summary.n.tolist()
        ([0, 1, 2], [2])
    """
    curves, totals = [], []
    methods, given = check_interventions(model, interventions), as_list(prompts)
    if len(given) < 2:
        raise ValueError("An interval needs at least two prompts, not one; pass more of them.")
    rows = follow(model, given, methods, continuations, steps, slot, chat=chat, offset=offset, batch_size=batch_size)
    texts = [rows[start : start + len(given)] for start in range(0, len(rows), len(given))]
    ways = ("from step", "only at step", "other slot")
    asked = [
        knock_outs(model, ways, range(steps), slot, others, [len(each.row.cached) for each in whole], seed)
        for whole in texts
    ]
    with counted(sum(map(len, asked)) * len(given), "half_life", "row", progress) as done:
        found = [
            knock_out_divergences(model, whole, outs, batch_size, done)
            for whole, outs in zip(texts, asked, strict=True)
        ]
    for method, whole, moved in zip(methods, texts, found, strict=True):
        left = np.array([[float(row.sum()) for row in moved[t]] for t in range(steps)])
        now = np.array([[float(row[t]) if t < len(row) else np.nan for row in moved[steps + t]] for t in range(steps)])
        other = [float(np.mean([float(row.sum()) for row in rows])) for rows in moved[2 * steps :]]
        curves += [
            dict(intervention=method.label, step=t) | _point(now[t], left[t], left[0], seed) for t in range(steps)
        ]
        totals.append(dict(intervention=method.label, n=len(whole)) | _total(left, other, seed))
    return HalfLife(pd.DataFrame(curves), pd.DataFrame(totals))


def _point(now: np.ndarray, left: np.ndarray, whole: np.ndarray, seed: int) -> dict[str, float]:
    there = ~np.isnan(now)
    found: dict[str, float] = dict(n=int(there.sum()))
    for name, values in (("now", now[there]), ("left", left)):
        if len(values):
            estimate = paired_bootstrap(values.tolist(), np.zeros_like(values).tolist(), n=_RESAMPLES, seed=seed)
            found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return found | dict(share=float(left.mean() / whole.mean()) if whole.mean() > 0 else float("nan"))


def _total(left: np.ndarray, other: Sequence[float], seed: int) -> dict[str, float]:
    whole = left[0]
    estimate = paired_bootstrap(whole.tolist(), np.zeros_like(whole).tolist(), n=_RESAMPLES, seed=seed)
    found = dict(
        nats=estimate.value,
        low=estimate.low,
        high=estimate.high,
        other=max(other),
        p_other=control_p(estimate.value, list(other)),
    )
    if estimate.value <= max(other):
        return found | dict(half_life=float("nan"), half_low=float("nan"), half_high=float("nan"))
    resampled = np.random.default_rng(seed).integers(0, left.shape[1], (_RESAMPLES, left.shape[1]))
    each = [halved(left[:, rows].mean(1)) for rows in resampled]
    low, high = np.quantile(each, [0.025, 0.975])
    return found | dict(half_life=halved(left.mean(1)), half_low=float(low), half_high=float(high))


def halved(left: np.ndarray) -> float:
    """The first step at which half or less is left; the number of steps if that is never.

    >>> halved(np.array([8.0, 6.0, 3.0]))
    2.0
    """
    enough = np.flatnonzero(left <= left[0] / 2)
    return float(enough[0]) if len(enough) else float(len(left))
