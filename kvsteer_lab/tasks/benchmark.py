"""What the benchmarks share: rows of a source become questions in three splits, and multiple choice is asked as in the
paper.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from .base import ListedTask, Question, Rule, by_hash, content_ids, same_text
from .rules import ANY_CHOICE, CHOICE, CLOSING, two_stage
from .source import Row, Source, Text


class Benchmark(ListedTask):
    """A public dataset with answers.

    Splits: where the source has one part only, all of its questions are divided by a hash of the id (70% extraction,
    15% dev, 15% test). Where it has more, the last of train, validation and test is the test split and the first is for
    extraction; the one between is dev, and without one a hash of the id takes 15% of the first for dev.

    Ids are made from the question as it is asked (`content_ids`), so a question has the same id in a local file, on the
    hub and in the paper's released generations, whatever the dataset itself calls it. A question that is in two parts
    is used in the later one only, with a warning.

    Args:
        data_dir: a folder with the dataset's files, or with them in `benchmarks/`; by default `KVSTEER_DATA_DIR`, and
            without that the hub.

    Raises:
        ValueError: a folder is named and the files aren't there.
    """

    source: ClassVar[Source]
    row: ClassVar[type[Row]]

    def __init__(self, data_dir: str | Path | None = None) -> None:
        self.files = self.source.files(data_dir)

    @staticmethod
    @abstractmethod
    def ask(row: Row) -> Question:
        """The question that a row asks, its id left empty."""

    @cached_property
    def listed(self) -> Mapping[str, list[Question]]:
        """Split -> its questions, read on first use.

        Raises:
            ValueError: rows that can't be read (`Source.read`).
        """
        read = self.source.read(self.row, self.files)
        parts = _apart(self.name, {part: [self.ask(row) for row in rows] for part, rows in read.items()})
        ids = iter(content_ids(q.text for questions in parts.values() for q in questions))
        named = [
            [Question(next(ids), q.text, q.answer, q.replies, q.choices) for q in questions]
            for questions in parts.values()
        ]
        if len(named) == 1:
            return by_hash(named[0])
        first, *between, last = named
        if between:
            return {"extraction": first, "dev": between[0], "test": last}
        return {**by_hash(first, test=0), "test": last}

    def demonstrate(self, question: Question, style: str) -> str:
        """The assistant's reply to `question` in `style`.

        Raises:
            ValueError: the dataset has no reply in that style; traces in it would have to be written first.
        """
        if style not in question.replies:
            raise ValueError(
                f"Task {self.name!r} has replies in {' and '.join(self.styles)} only, none in style {style!r};"
                " have traces in that style written (kv.traces.write_traces) and use"
                " kv.traces.with_traces(task, traces)."
            )
        return question.replies[style]


def _apart(name: str, parts: dict[str, list[Question]]) -> dict[str, list[Question]]:
    """The parts without the questions that a later part has, too."""
    taken: set[str] = set()
    found: dict[str, list[Question]] = {}
    for part, questions in reversed(parts.items()):
        found[part] = [question for question in questions if same_text(question.text) not in taken]
        if dropped := len(questions) - len(found[part]):
            warnings.warn(
                f"{dropped} of the questions in the {part} part of {name} are in a later part, too; they are used there"
                " only, so that no question is in two splits.",
                stacklevel=4,
            )
        taken |= {same_text(question.text) for question in questions}
    return dict(reversed(found.items()))


class Choices(BaseModel):
    """The choices of a row: labels and texts side by side."""

    model_config = ConfigDict(strict=True, frozen=True)
    label: list[str]
    text: list[Text]

    @model_validator(mode="after")
    def _match(self) -> Choices:
        if len(self.label) != len(self.text) or len(self.label) < 2:
            raise ValueError(
                f"there are {len(self.label)} labels and {len(self.text)} texts; each choice needs both, and two"
                " choices are the least"
            )
        if len(set(self.label)) < len(self.label) or not all(label in ANY_CHOICE.choices for label in self.label):
            raise ValueError(
                f"the labels are {', '.join(map(repr, self.label))}; each must be a capital letter or digit of its own"
            )
        return self


class ChoiceRow(Row):
    """The schema that ARC and CommonsenseQA share."""

    id: Text
    question: Text
    choices: Choices
    answerKey: str

    @model_validator(mode="after")
    def _is_answered(self) -> ChoiceRow:
        if self.answerKey not in self.choices.label:
            raise ValueError(f"the answer {self.answerKey!r} isn't one of the choices {', '.join(self.choices.label)}")
        return self


class MultipleChoice(Benchmark):
    """A benchmark whose answer is the label of a choice. Labels are kept as the dataset has them."""

    styles = ("direct",)
    max_new_tokens = 256
    closing = CLOSING

    @property
    def rules(self) -> Mapping[str, Rule]:
        """What was written after the closing words first; the paper's own rules and a strict one beside it."""
        return CHOICE

    def read_answer(self, text: str) -> str | None:
        """The label after the last closing words, whatever the question's choices are."""
        return two_stage(ANY_CHOICE, text)


def choice_question(text: str, choices: Mapping[str, str], answer: str, header: str = "\n\nChoices:\n") -> Question:
    """A multiple-choice question as the paper asks it: the question, then a line `A: text` for each choice; its id is
    left empty.

    Args:
        text: the question.
        choices: label -> text, in the order shown.
        answer: the right label.
        header: what stands between the question and the choices.

    >>> choice_question("Where are books?", {"A": "bank", "B": "library"}, "B").text
    'Where are books?\\n\\nChoices:\\nA: bank\\nB: library'
    """
    lines = "\n".join(f"{label}: {choice}" for label, choice in choices.items())
    return Question("", f"{text}{header}{lines}", answer, {"direct": f"The correct choice is {answer}."}, dict(choices))
