"""A task of your own, from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .base import SPLITS, Extractor, ListedTask, Question, by_hash, content_ids
from .benchmark import choice_question
from .rules import ANY_CHOICE, CHOICE, CLOSING, NUMBER, is_number, plain, said, word_rules

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class FrameTask(ListedTask):
    """What `from_frame` returns: questions in splits, and the rules that fit their answers."""

    def __init__(
        self,
        name: str,
        listed: Mapping[str, Sequence[Question]],
        styles: tuple[str, ...],
        rules: Mapping[str, Extractor],
        closes: bool,
    ) -> None:
        self.name, self.styles, self.closing = name, styles, CLOSING if closes else None
        self._listed, self._rules = listed, rules

    @property
    def listed(self) -> Mapping[str, Sequence[Question]]:
        """Split -> its questions, in the table's order."""
        return self._listed

    @property
    def extractors(self) -> Mapping[str, Extractor]:
        """The rules for letters, numbers or words, whichever the answers are; or your own."""
        return self._rules

    def read_answer(self, text: str) -> str | None:
        """What the main rule reads, whatever the question's choices are."""
        return next(iter(self._rules.values()))(ANY_CHOICE, text)


def from_frame(
    frame: pd.DataFrame,
    *,
    name: str,
    text: str = "question",
    answer: str = "answer",
    choices: str | None = None,
    id: str | None = None,
    split: str | None = None,
    replies: Mapping[str, str] | None = None,
    extractors: Mapping[str, Extractor] | None = None,
) -> FrameTask:
    """A task from a table with one question a row.

    Answers that are all numbers are read and compared as numbers, others as words, behind "answer is". With choices the
    answer is a choice's label, and the task is asked and read as the multiple-choice benchmarks are.

    Args:
        frame: the table.
        name: the task's name.
        text: the column with the question.
        answer: the column with the gold answer.
        choices: the column with each question's choices: texts (labelled A, B and so on), or a mapping from label to
            text.
        id: the column with the ids, which must be distinct; by default ids are made from the questions as they are
            asked.
        split: the column with "extraction", "dev" or "test"; by default a hash of the id divides the questions 70 : 15
            : 15.
        replies: style -> the column with the assistant's replies in it; "direct" is made from the answer where you give
            none.
        extractors: your own rules by name, the main one first, instead of the usual ones.

    Raises:
        ValueError: an empty table, a missing column, an empty cell, an id twice, an unknown split, an answer that is
            none of its choices.
    """
    columns = {
        "text": text,
        "answer": answer,
        "choices": choices,
        "id": id,
        "split": split,
        **{f"replies[{s!r}]": c for s, c in (replies or {}).items()},
    }
    for role, column in columns.items():
        if column is not None and column not in frame.columns:
            raise ValueError(
                f"The table has no column {column!r}; name one of its columns as {role}=:"
                f" {', '.join(map(str, frame.columns))}."
            )
    if frame.empty:
        raise ValueError(f"The table of task {name!r} has no rows; a task needs at least one question.")
    for column in dict.fromkeys(c for c in columns.values() if c is not None):
        for row, cell in enumerate(frame[column]):
            if (pd.api.types.is_scalar(cell) and pd.isna(cell)) or not str(cell).strip():
                raise ValueError(
                    f"Column {column!r} of task {name!r} is empty in row {row}; fill the cell in, or leave the row out"
                    " yourself."
                )

    rows = frame.to_dict("records")
    golds = [str(row[answer]).strip() for row in rows]
    if choices is not None:
        made = [
            _choice(name, i, str(row[text]), row[choices], gold)
            for i, (row, gold) in enumerate(zip(rows, golds, strict=True))
        ]
        rules = CHOICE
    else:
        numeric = all(map(is_number, golds))
        answers = [plain(g) if numeric else said(g) for g in golds]
        stated = answers if numeric else golds
        made = [
            Question("", str(row[text]), a, {"direct": f"The answer is {s}."})
            for row, a, s in zip(rows, answers, stated, strict=True)
        ]
        rules = NUMBER if numeric else word_rules(golds)
    ids = [str(row[id]) for row in rows] if id is not None else content_ids(q.text for q in made)
    first = {found: i for i, found in reversed(list(enumerate(ids)))}
    for i, found in enumerate(ids):
        if first[found] < i:
            raise ValueError(
                f"The id {found!r} of task {name!r} is in rows {first[found]} and {i}; ids must be distinct."
            )
    questions = [
        Question(
            i,
            q.text,
            q.answer,
            {**q.replies, **{style: str(row[column]) for style, column in (replies or {}).items()}},
            q.choices,
        )
        for i, q, row in zip(ids, made, rows, strict=True)
    ]
    styles = tuple(dict.fromkeys(["direct", *(replies or {})]))
    listed = by_hash(questions) if split is None else _by_column(name, split, questions, rows)
    return FrameTask(name, listed, styles, extractors or rules, closes=choices is not None)


def _choice(name: str, row: int, text: str, cell: Any, gold: str) -> Question:
    texts = cell.tolist() if hasattr(cell, "tolist") else cell
    if not isinstance(texts, Mapping | Sequence) or isinstance(texts, str) or not 2 <= len(texts) <= len(LETTERS):
        raise ValueError(
            f"The choices of task {name!r} in row {row} are {cell!r}; give a list of two or more texts, or a mapping"
            " from label to text."
        )
    labelled = (
        {str(k): str(v) for k, v in texts.items()}
        if isinstance(texts, Mapping)
        else dict(zip(LETTERS, map(str, texts), strict=False))
    )
    if not all(len(label) == 1 and label in LETTERS + "0123456789" for label in labelled):
        raise ValueError(
            f"The choices of task {name!r} in row {row} are labelled {', '.join(labelled)}; a label is one capital"
            " letter or digit."
        )
    if gold not in labelled:
        raise ValueError(
            f"The answer {gold!r} of task {name!r} in row {row} is none of its choices {', '.join(labelled)}; give the"
            " label of the right one."
        )
    return choice_question(text, labelled, gold)


def _by_column(
    name: str, column: str, questions: Sequence[Question], rows: Sequence[Mapping[Any, Any]]
) -> dict[str, list[Question]]:
    listed: dict[str, list[Question]] = {split: [] for split in SPLITS}
    for i, (question, row) in enumerate(zip(questions, rows, strict=True)):
        if row[column] not in listed:
            raise ValueError(
                f"The split {row[column]!r} of task {name!r} in row {i} is unknown; choose one of: {', '.join(SPLITS)}."
            )
        listed[row[column]].append(question)
    return listed
