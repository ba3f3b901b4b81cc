"""CommonsenseQA (Talmor et al. 2019): everyday knowledge, five choices."""

from __future__ import annotations

from .base import Question
from .benchmark import ChoiceRow, MultipleChoice, choice_question
from .source import Row, Source


class CommonsenseQA(MultipleChoice):
    """Read from `csqa_PART` or `commonsense_qa_PART` (`.jsonl` or `.parquet`), or `tau/commonsense_qa`.

    The answers of its test part are not public, so the validation part is the test split. The choices follow the
    question without a heading, as in the paper's runs.
    """

    name = "commonsense_qa"
    source = Source(("csqa", "commonsense_qa"), ("train", "validation"), "tau/commonsense_qa")
    row = ChoiceRow

    @staticmethod
    def ask(row: Row) -> Question:
        assert isinstance(row, ChoiceRow)
        return choice_question(
            row.question, dict(zip(row.choices.label, row.choices.text, strict=True)), row.answerKey, header="\n"
        )
