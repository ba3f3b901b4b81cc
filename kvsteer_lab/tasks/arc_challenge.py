"""ARC-Challenge (Clark et al. 2018): school science, three to five choices."""

from __future__ import annotations

from .base import Question
from .benchmark import ChoiceRow, MultipleChoice, choice_question
from .source import Row, Source


class ARCChallenge(MultipleChoice):
    """Read from `arc_challenge_PART.jsonl` or `.parquet`, or `allenai/ai2_arc`. Some questions label their choices 1 to
    4 instead of A to D.
    """

    name = "arc_challenge"
    source = Source(("arc_challenge",), ("train", "validation", "test"), "allenai/ai2_arc", "ARC-Challenge")
    row = ChoiceRow

    @staticmethod
    def ask(row: Row) -> Question:
        assert isinstance(row, ChoiceRow)
        return choice_question(row.question, dict(zip(row.choices.label, row.choices.text, strict=True)), row.answerKey)
