"""Outcomes of stored replies: one column an outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...tasks.base import Question
from .outcome import Outcome, Reply

PREFIX = "outcome "
"""What the columns of measured outcomes begin with."""


def measure_rows(rows: pd.DataFrame, outcomes: Sequence[Outcome], questions: Mapping[str, Question]) -> pd.DataFrame:
    """Values of outcomes, one row a reply and one column an outcome; NaN where it doesn't apply.

    Args:
        rows: of `Results`.
        outcomes: what is measured.
        questions: by id; of one that isn't there the function gets the id and the gold answer alone.

    Raises:
        ValueError: what an outcome's function returns is no number.
    """
    if not outcomes:
        return pd.DataFrame(index=rows.index)
    columns = [c for c in rows.columns if not c.startswith(PREFIX)]
    values: dict[str, list[float]] = {outcome.name: [] for outcome in outcomes}
    for row in rows[columns].to_dict("records"):
        question = questions.get(row["question"]) or Question(row["question"], "", row["gold"])
        reply = Reply((row["forced"] or "") + row["text"], row)
        for outcome in outcomes:
            values[outcome.name].append(outcome.value(question, reply))
    return pd.DataFrame(values, index=rows.index, dtype=float)
