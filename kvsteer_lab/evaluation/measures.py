"""Measures of the replies in one cell of a sweep: accuracy, style, length and loops."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..stats.shares import clustered_share
from ..stats.texts import is_loop
from .doses import Steering
from .verdicts import check_measured


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
    whole = replies.forced + replies.text
    adopted = None if style is None else replies["style"] == style
    questions = replies.question
    row: dict[str, Any] = dict(n=questions.nunique())
    row |= (
        _share(replies.correct, questions, "accuracy", "")
        | _share(replies.reasoned, questions, "reasoned", "reasoned_")
        | _share(adopted, questions, "adopted", "adopted_")
    )
    row |= dict(tokens=replies.tokens.mean(), truncated=(replies.finish_reason == "length").mean())
    return row | dict(loops=whole.map(is_loop).mean(), repetition=replies.repetition.mean())


def style_of(steering: Steering) -> str | None:
    """The style that the steering's vectors were extracted for; `None` if their card does not say.

    Args:
        steering: cache or activation steering.

    Returns:
        The style's name.
    """
    return steering.vectors.card.recipe.get("style")


def _share(hits: pd.Series | None, questions: pd.Series, name: str, prefix: str) -> dict[str, float]:
    if hits is None:
        return {name: float("nan"), f"{prefix}low": float("nan"), f"{prefix}high": float("nan")}
    found = clustered_share(hits.tolist(), questions.tolist())
    return {name: float(hits.mean()), f"{prefix}low": found.low, f"{prefix}high": found.high}
