"""PIQA (Bisk et al. 2020): which of two ways reaches a goal."""

from __future__ import annotations

from typing import Literal

from .base import Question
from .benchmark import MultipleChoice, choice_question
from .source import Row, Source, Text


class PIQARow(Row):
    """The dataset's own columns."""

    goal: Text
    sol1: Text
    sol2: Text
    label: Literal[0, 1]


class PIQA(MultipleChoice):
    """Read from `piqa_PART.jsonl` or `.parquet`, or `ybisk/piqa`. The first solution is A, the second B.

    The answers of its test part are not public, so the validation part is the test split.
    """

    name = "piqa"
    # The main branch holds a loading script, which `datasets` no longer runs; the hub keeps its rows as parquet beside
    # it.
    source = Source(("piqa",), ("train", "validation"), "ybisk/piqa", revision="refs/convert/parquet")
    row = PIQARow

    @staticmethod
    def ask(row: Row) -> Question:
        assert isinstance(row, PIQARow)
        return choice_question(row.goal, {"A": row.sol1, "B": row.sol2}, "AB"[row.label])
