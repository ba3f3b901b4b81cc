"""What sampling does to a steering: greedy replies beside sampled ones, at several temperatures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...evaluation.bands import control_means
from ...evaluation.doses import Steering, check_adds, controls_of
from ...evaluation.evaluate import evaluate
from ...evaluation.measures import style_of
from ...models.model import Model
from ...stats.intervals import clustered_mean, paired_bootstrap, wilson
from ...stats.significance import control_p
from ...tasks.base import Task


def temperature_response(
    model: Model,
    task: Task,
    steering: Steering,
    temperatures: Sequence[float] = (0.0, 0.5, 1.0, 1.5),
    *,
    samples: int = 4,
    controls: int = 0,
    n: int = 24,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    max_new_tokens: int = 128,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate a steering beside the baseline at several sampling temperatures, with the same noise for both.

    Args:
        model, task, n, split, seed, offset, batch_size, progress: as in `kv.evaluate`.
        steering: what is sampled under.
        temperatures: 0 is greedy decoding, one reply a question; nothing is cut from the distribution (no top-k, no
            top-p).
        samples: replies a question at the others.
        controls: random vectors of the same size; 0: none.
        max_new_tokens: per reply.

    Returns:
        One row per temperature and vector: `temperature`, `vector` (`"baseline"`, `"steering"`, `"random"`), `n`
        (questions), `samples`; the shares `accuracy`,
        `reasoned` and `adopted` (the vectors' own style, NaN if they don't say) with their 95% intervals `low`, `high`,
        `reasoned_low` and so on; `tokens`, the mean length; `truncated`, the share of replies cut at `max_new_tokens`.
        Intervals are clustered by question and cut at 0 and 1; for one reply a question, and where all replies agree,
        they are Wilson's, each question counted once. Random vectors are one row: their mean and the middle 95% of
        them. The steering's rows also hold `gain`, `gain_low`, `gain_high`, what it adds to the baseline's accuracy
        (paired bootstrap over questions, each with all of its samples on both sides), and with controls `p_random`, the
        share of them (plus one) that are as accurate.

    Raises:
        ValueError: no temperatures, one that is negative, NaN or infinite, fewer than one sample, vectors that are
            zero, or what `kv.evaluate` refuses; before anything is computed.
    """
    if len(temperatures) == 0:
        raise ValueError("There are no temperatures to try; pass at least one, 0 for greedy decoding.")
    if wrong := [t for t in temperatures if not 0 <= t < math.inf]:
        raise ValueError(f"There is a temperature {wrong[0]}; temperatures are 0 (greedy) or positive numbers.")
    if samples < 1 or samples != int(samples):
        raise ValueError(f"samples={samples} gives no replies; ask for at least 1.")
    check_adds(steering)
    drawn = controls_of(steering, controls, seed)
    rows = []
    for t in dict.fromkeys(float(t) for t in temperatures):
        generation: dict[str, Any] = dict(max_new_tokens=max_new_tokens) | (
            dict(do_sample=True, temperature=t, top_k=0, top_p=1.0) if t else {}
        )
        settings = dict(
            n=n,
            split=split,
            seed=seed,
            offset=offset,
            generation=generation,
            samples=samples if t else 1,
            batch_size=batch_size,
        )
        results = evaluate(model, task, [steering, *drawn], progress=progress, **settings)  # type: ignore[arg-type]
        if not results.complete:
            raise KeyboardInterrupt("the run was interrupted")
        style = style_of(steering)
        replies = results.rows.assign(adopted=(results.rows["style"] == style) if style is not None else math.nan)
        plain, steered = (replies[replies.intervention == label] for label in ("baseline", steering.label))
        rows.append(dict(temperature=t, vector="baseline", **_measure(plain)))
        each = control_means(replies, steering.label)
        p_random = dict(p_random=control_p(float(steered.correct.mean()), each)) if each else {}
        rows.append(dict(temperature=t, vector="steering", **_measure(steered), **_gain(steered, plain), **p_random))
        if drawn:
            rows.append(dict(temperature=t, vector="random", **_pool(replies[replies.control_of == steering.label])))
    return pd.DataFrame(rows)


def _gain(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, float]:
    both = ours.merge(theirs, on=["question", "sample"], suffixes=("", "_plain"), validate="one_to_one")
    found = paired_bootstrap(both.correct.tolist(), both.correct_plain.tolist(), clusters=both.question.tolist())
    return dict(gain=found.value, gain_low=found.low, gain_high=found.high)


def _sizes(replies: pd.DataFrame) -> dict[str, Any]:
    return dict(n=replies.question.nunique(), samples=replies["sample"].nunique())


def _ends(replies: pd.DataFrame) -> dict[str, float]:
    return dict(tokens=replies.tokens.mean(), truncated=(replies.finish_reason == "length").mean())


def _measure(replies: pd.DataFrame) -> dict[str, Any]:
    row = _sizes(replies)
    for column, name, prefix in (
        ("correct", "accuracy", ""),
        ("reasoned", "reasoned", "reasoned_"),
        ("adopted", "adopted", "adopted_"),
    ):
        low, high = _interval(replies[column], replies.question)
        row |= {name: float(replies[column].mean()), f"{prefix}low": low, f"{prefix}high": high}
    return row | _ends(replies)


def _pool(replies: pd.DataFrame) -> dict[str, Any]:
    row = _sizes(replies)
    for column, name, prefix in (
        ("correct", "accuracy", ""),
        ("reasoned", "reasoned", "reasoned_"),
        ("adopted", "adopted", "adopted_"),
    ):
        each = replies.groupby("intervention")[column].mean()
        row |= {
            name: float(each.mean()),
            f"{prefix}low": float(each.quantile(0.025)),
            f"{prefix}high": float(each.quantile(0.975)),
        }
    return row | _ends(replies)


def _interval(hits: pd.Series, questions: pd.Series) -> tuple[float, float]:
    """Clustered by question. Replies that all agree have no spread to estimate: then each question counts as one reply,
    as it does where there is one.
    """
    if hits.isna().any():
        return math.nan, math.nan
    distinct = questions.nunique()
    if distinct == len(hits):
        return wilson(int(hits.sum()), distinct)
    if hits.nunique() == 1:
        return wilson(distinct if bool(hits.iloc[0]) else 0, distinct)
    found = clustered_mean(hits.astype(float).tolist(), questions.tolist())
    return max(0.0, found.low), min(1.0, found.high)
