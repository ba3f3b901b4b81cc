"""What a cell of any sweep is measured by: accuracy, style, length and loops of its replies."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..stats.intervals import wilson
from ..stats.texts import is_loop
from .doses import Steering


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
    whole = replies.forced + replies.text
    adopted = None if style is None else replies["style"] == style
    row: dict[str, Any] = dict(n=len(replies))
    row |= (
        _share(replies.correct, "accuracy", "")
        | _share(replies.reasoned, "reasoned", "reasoned_")
        | _share(adopted, "adopted", "adopted_")
    )
    row |= dict(tokens=replies.tokens.mean(), truncated=(replies.finish_reason == "length").mean())
    return row | dict(loops=whole.map(is_loop).mean(), repetition=replies.repetition.mean())


def style_of(steering: Steering) -> str | None:
    """The style that the steering's vectors were extracted for, if they say."""
    return steering.vectors.card.recipe.get("style")


def _share(hits: pd.Series | None, name: str, prefix: str) -> dict[str, float]:
    if hits is None:
        return {name: float("nan"), f"{prefix}low": float("nan"), f"{prefix}high": float("nan")}
    low, high = wilson(int(hits.sum()), len(hits))
    return {name: float(hits.mean()), f"{prefix}low": low, f"{prefix}high": high}
