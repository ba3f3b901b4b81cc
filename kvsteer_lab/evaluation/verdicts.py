"""Rows of an evaluation before they are counted: none without a verdict, an interrupted run said to be one, and the
question of each reply.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

MEASURED = ("correct", "reasoned", "tokens", "finish_reason", "repetition")
"""Columns that tables count; every reply has a value in each."""


def check_measured(rows: pd.DataFrame, columns: Sequence[str] = MEASURED) -> None:
    """Refuse rows with a gap in what is counted: a mean that skips them would be one of other replies than it says.

    Args:
        rows: of `Results`.
        columns: what is counted.

    Raises:
        ValueError: a reply without a verdict, a length or another measure; it is named.
    """
    for column in columns:
        missing = rows[column].isna()
        if missing.any():
            first = rows[missing].iloc[0]
            raise ValueError(
                f"{int(missing.sum())} of {len(rows)} replies have no value of {column!r} (for one,"
                f" {first.intervention!r}"
                f" on question {first.question!r}), so they can't be counted; read the texts again, or leave these"
                " questions out."
            )


def counted(rows: pd.DataFrame, settings: Mapping[str, Any], complete: bool) -> dict[str, int]:
    """What a row of a table says of its size: `n` questions; `samples`, replies to each, where there are several;
    `planned`, the questions of the whole run, where it was interrupted.

    Args:
        rows: the replies that are counted.
        settings: of the run.
        complete: whether the run is.

    Returns:
        The columns and their values.
    """
    found = dict(n=int(rows.question.nunique()))
    if rows["sample"].nunique() > 1:
        found["samples"] = int(rows["sample"].nunique())
    if not complete and "n" in settings:
        found["planned"] = int(settings["n"])
    return found


def warn_of_interruption(rows: pd.DataFrame, settings: Mapping[str, Any], above: int = 4) -> None:
    """Warn that a table counts a part of the questions that a run was to ask.

    Args:
        rows, settings: of the `Results`.
        above: which frame of the call is warned of: 4, the caller of a method of `Results`; 3, of a function.
    """
    planned = f" of {settings['n']}" if "n" in settings else ""
    warnings.warn(
        f"The run was interrupted: this table counts {rows.question.nunique()}{planned} questions. Finish the run"
        " before"
        " you conclude anything from it.",
        stacklevel=above,
    )


def by_question(rows: pd.DataFrame, column: str) -> pd.Series:
    """The mean of a column over the replies to each question, in the order of the questions."""
    return rows.groupby("question", sort=False)[column].mean()
