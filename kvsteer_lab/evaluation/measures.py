"""What is measured of replies: shares with their intervals, lengths, loops. One function a kind of table row; every
analysis builds its rows from these.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ..interventions.steering import Steering
from ..stats.intervals import clustered_mean, wilson
from ..stats.texts import is_loop


def share(hits: pd.Series | None, name: str, prefix: str = "", questions: pd.Series | None = None) -> dict[str, float]:
    """A share of replies and its 95% interval, under the keys `name`, `{prefix}low` and `{prefix}high`.

    Args:
        hits: whether each reply counts; `None`: not known, all three are NaN.
        name: what the share is called.
        prefix: what the ends of the interval are called.
        questions: the question of each reply, where a question has several. The interval is then clustered by question
            and cut at 0 and 1. For one reply a question, and where all replies agree (there is no spread to estimate),
            it is Wilson's, each question counted once.

    Example:
        >>> import pandas as pd
        >>> {name: round(value, 2) for name, value in share(pd.Series([True, True, False, True]), "accuracy").items()}
        {'accuracy': 0.75, 'low': 0.3, 'high': 0.95}
    """
    if hits is None or hits.isna().any():
        return {name: math.nan, f"{prefix}low": math.nan, f"{prefix}high": math.nan}
    low, high = _interval(hits, questions)
    return {name: float(hits.mean()), f"{prefix}low": low, f"{prefix}high": high}


def measure_briefly(replies: pd.DataFrame) -> dict[str, Any]:
    """`n`, `accuracy` with its interval `low`, `high`, the share `reasoned`, and `tokens`, the mean length."""
    return (
        dict(n=len(replies))
        | share(replies.correct, "accuracy")
        | dict(reasoned=replies.reasoned.mean(), tokens=replies.tokens.mean())
    )


def measure(replies: pd.DataFrame, style: str | None) -> dict[str, Any]:
    """One row of a table from the replies of one intervention, one a question.

    Args:
        replies: rows of `Results`.
        style: the intended one; `None` where the vectors don't say.

    Returns:
        `n`; the shares `accuracy`, `reasoned` (a reasoning style), `adopted` (the intended style; NaN without one), and
        their 95% Wilson intervals: `low` and `high` of accuracy, `reasoned_low` and so on of the others; `tokens`, the
        mean length; `truncated` and `loops` (`kv.side_effects`), shares of replies; `repetition`, the mean share of
        repeated 4-grams.
    """
    adopted = None if style is None else replies["style"] == style
    row: dict[str, Any] = dict(n=len(replies)) | share(replies.correct, "accuracy")
    row |= share(replies.reasoned, "reasoned", "reasoned_") | share(adopted, "adopted", "adopted_") | lengths(replies)
    return row | dict(loops=(replies.forced + replies.text).map(is_loop).mean(), repetition=replies.repetition.mean())


def measure_samples(replies: pd.DataFrame, style: str | None) -> dict[str, Any]:
    """As `measure`, of several sampled replies a question: `n` counts questions, `samples` their replies, and intervals
    are clustered by question.
    """
    adopted = None if style is None else replies["style"] == style
    row: dict[str, Any] = dict(n=replies.question.nunique(), samples=replies["sample"].nunique())
    for hits, name, prefix in (
        (replies.correct, "accuracy", ""),
        (replies.reasoned, "reasoned", "reasoned_"),
        (adopted, "adopted", "adopted_"),
    ):
        row |= share(hits, name, prefix, replies.question)
    return row | lengths(replies)


def measure_beside(replies: pd.DataFrame, others: pd.DataFrame) -> dict[str, Any]:
    """Replies beside others to the same questions, in the same order.

    Returns:
        `n`; the shares `accuracy` and `reasoned` with their intervals; `tokens`; `style`, the commonest one;
        `same_style`, the share of replies whose style is that of the other reply to their question, with its interval
        `same_style_low`, `same_style_high`.
    """
    same = pd.Series(replies["style"].to_numpy() == others["style"].to_numpy())
    row: dict[str, Any] = (
        dict(n=len(replies)) | share(replies.correct, "accuracy") | share(replies.reasoned, "reasoned", "reasoned_")
    )
    row |= dict(tokens=replies.tokens.mean(), style=replies["style"].mode().iloc[0])
    return row | share(same, "same_style", "same_style_")


def lengths(replies: pd.DataFrame) -> dict[str, float]:
    """`tokens`, the mean length, and `truncated`, the share of replies cut at `max_new_tokens`."""
    return dict(tokens=replies.tokens.mean(), truncated=(replies.finish_reason == "length").mean())


def _interval(hits: pd.Series, questions: pd.Series | None) -> tuple[float, float]:
    distinct = len(hits) if questions is None else questions.nunique()
    if distinct == len(hits):
        return wilson(int(hits.sum()), distinct)
    if hits.nunique() == 1:
        return wilson(distinct if bool(hits.iloc[0]) else 0, distinct)
    found = clustered_mean(hits.astype(float).tolist(), questions.tolist())  # type: ignore[union-attr]
    return max(0.0, found.low), min(1.0, found.high)


def style_of(steering: Steering) -> str | None:
    """`steering.style`."""
    return steering.style
