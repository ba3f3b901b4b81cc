"""What is measured of replies: shares with their intervals, lengths, loops. There is one function for each kind of
table row, and every analysis builds its rows from these.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ..stats.shares import clustered_share
from ..stats.texts import is_loop
from .verdicts import check_measured


def share(hits: pd.Series | None, name: str, prefix: str = "", questions: pd.Series | None = None) -> dict[str, float]:
    """A share of replies and its 95% interval, under the keys `name`, `{prefix}low` and `{prefix}high`.

    Args:
        hits: whether each reply counts; `None`, or a reply for which it isn't known: all three are NaN.
        name: what the share is called.
        prefix: what the ends of the interval are called.
        questions: the question of each reply, where a question has several; the interval is then clustered by question.
            `None`: one reply per question, and the interval is Wilson's.

    Example:
        >>> import pandas as pd
        >>> {name: round(value, 2) for name, value in share(pd.Series([True, True, False, True]), "accuracy").items()}
        {'accuracy': 0.75, 'low': 0.3, 'high': 0.95}
    """
    if hits is None or hits.isna().any():
        return {name: math.nan, f"{prefix}low": math.nan, f"{prefix}high": math.nan}
    found = clustered_share(hits.tolist(), None if questions is None else questions.tolist())
    return {name: float(hits.mean()), f"{prefix}low": found.low, f"{prefix}high": found.high}


def measure_briefly(replies: pd.DataFrame) -> dict[str, Any]:
    """The shortest row: `n`, `accuracy` with its interval `low`, `high`, the share `reasoned`, and `tokens`, the mean
    length.

    Args:
        replies: rows of `Results` under one intervention.

    Example:
        >>> import pandas as pd
        >>> rows = dict(question=["a", "b"], intervention="x", correct=[True, False], reasoned=True, tokens=[4, 8])
        >>> row = measure_briefly(pd.DataFrame(rows))
        >>> row["n"], row["accuracy"], float(row["tokens"])
        (2, 0.5, 6.0)
    """
    check_measured(replies, ("correct", "reasoned", "tokens"))
    means = dict(reasoned=replies.reasoned.mean(), tokens=replies.tokens.mean())
    return dict(n=replies.question.nunique()) | share(replies.correct, "accuracy", "", replies.question) | means


def measure(replies: pd.DataFrame, style: str | None) -> dict[str, Any]:
    """One row of a table from the replies of one intervention, over all samples of each question.

    Args:
        replies: rows of `Results`.
        style: the intended one; `None` where the vectors do not say.

    Returns:
        `n` questions; the shares `accuracy`, `reasoned` (a reasoning style), `adopted` (the intended style; NaN without
        one), and their 95% intervals (Wilson's, clustered by question): `low` and `high` of accuracy, `reasoned_low`
        and so on of the others; `tokens`, the mean length; `truncated` and `loops` (`kv.side_effects`), shares of
        replies; `repetition`, the mean share of repeated 4-grams.

    Raises:
        ValueError: no replies, or replies without a verdict or a length.

    Examples:
        >>> import pandas as pd
        >>> from kvsteer_lab.evaluation.measures import measure
        >>> texts = pd.DataFrame({"text": ["Step 1.", "4"], "forced": "", "style": ["stepwise", "direct"]})
        >>> counts = texts.assign(question=["a", "b"], intervention="steered", correct=True, reasoned=[True, False])
        >>> row = measure(counts.assign(tokens=3, finish_reason="eos", repetition=0.0), "stepwise")
        >>> row["n"], row["accuracy"], row["adopted"]
        (2, 1.0, 0.5)
    """
    check_measured(replies)
    loops = (replies.forced + replies.text).map(is_loop).mean()
    row = dict(n=replies.question.nunique()) | _shares(replies, style) | lengths(replies)
    return row | dict(loops=loops, repetition=replies.repetition.mean())


def measure_samples(replies: pd.DataFrame, style: str | None) -> dict[str, Any]:
    """The shares and lengths of `measure` for several sampled replies per question: `n` counts questions, `samples` the
    replies to each.

    Args:
        replies: rows of `Results`.
        style: the intended one; `None` where the vectors do not say.

    Example:
        >>> import pandas as pd
        >>> rows = dict(question="a", intervention="x", correct=[True, False], reasoned=True, tokens=[4, 8])
        >>> row = measure_samples(pd.DataFrame(rows | dict(sample=[0, 1], style="x", finish_reason="eos")), "x")
        >>> row["n"], row["samples"], row["accuracy"], row["adopted"]
        (1, 2, 0.5, 1.0)
    """
    sizes = dict(n=replies.question.nunique(), samples=replies["sample"].nunique())
    return sizes | _shares(replies, style) | lengths(replies)


def measure_beside(replies: pd.DataFrame, others: pd.DataFrame) -> dict[str, Any]:
    """Replies beside others to the same questions, in the same order.

    Args:
        replies, others: rows of `Results`, one per question.

    Returns:
        `n`; the shares `accuracy` and `reasoned` with their intervals; `tokens`; `style`, the commonest one;
        `same_style`, the share of replies whose style is that of the other reply to their question, with its interval
        `same_style_low`, `same_style_high`.

    Example:
        >>> import pandas as pd
        >>> rows = dict(question=["a", "b"], intervention="x", correct=[True, False], reasoned=True, tokens=[4, 8])
        >>> ours, theirs = (pd.DataFrame(rows | dict(style=style)) for style in (["x", "y"], ["x", "x"]))
        >>> measure_beside(ours, theirs)["same_style"]
        0.5
    """
    check_measured(replies, ("correct", "reasoned", "tokens"))
    same = pd.Series(replies["style"].to_numpy() == others["style"].to_numpy())
    row: dict[str, Any] = dict(n=len(replies)) | share(replies.correct, "accuracy")
    row |= share(replies.reasoned, "reasoned", "reasoned_")
    row |= dict(tokens=replies.tokens.mean(), style=replies["style"].mode().iloc[0])
    return row | share(same, "same_style", "same_style_")


def lengths(replies: pd.DataFrame) -> dict[str, float]:
    """`tokens`, the mean length, and `truncated`, the share of replies cut at `max_new_tokens`.

    Args:
        replies: rows of `Results`.

    Example:
        >>> import pandas as pd
        >>> found = lengths(pd.DataFrame(dict(tokens=[4, 8], finish_reason="length")))
        >>> float(found["tokens"]), float(found["truncated"])
        (6.0, 1.0)
    """
    return dict(tokens=replies.tokens.mean(), truncated=(replies.finish_reason == "length").mean())


def _shares(replies: pd.DataFrame, style: str | None) -> dict[str, float]:
    check_measured(replies, ("correct", "reasoned", "tokens", "finish_reason"))
    adopted = None if style is None else replies["style"] == style
    shares: dict[str, float] = {}
    for hits, name, prefix in (
        (replies.correct, "accuracy", ""),
        (replies.reasoned, "reasoned", "reasoned_"),
        (adopted, "adopted", "adopted_"),
    ):
        shares |= share(hits, name, prefix, replies.question)
    return shares
