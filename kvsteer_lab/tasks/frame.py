"""A task of your own, from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Number
from typing import Any

from .base import SPLITS, ListedTask, Question, Rule, by_hash, content_ids, same_text
from .benchmark import choice_question
from .rules import ANY_CHOICE, CHOICE, CLOSING, NUMBER, is_number, plain, said, word_rules
from .table import table_of, text_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class FrameTask(ListedTask):
    """What `from_frame` returns: questions in splits, and the rules that fit their answers."""

    def __init__(
        self,
        name: str,
        listed: Mapping[str, Sequence[Question]],
        styles: tuple[str, ...],
        rules: Mapping[str, Rule],
        closes: bool,
    ) -> None:
        self.name, self.styles, self.closing = name, styles, CLOSING if closes else None
        self._listed, self._rules = listed, rules

    @property
    def listed(self) -> Mapping[str, Sequence[Question]]:
        """Split -> its questions, in the table's order."""
        return self._listed

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The rules for labels, numbers or words, whichever the answers are; or your own."""
        return self._rules

    def read_answer(self, text: str) -> str | None:
        """What the main rule reads, whatever the question's choices are."""
        return next(iter(self._rules.values()))(ANY_CHOICE, text)


def from_frame(
    frame: Any,
    *,
    name: str,
    text: str = "question",
    answer: str = "answer",
    choices: str | None = None,
    id: str | None = None,
    split: str | None = None,
    replies: Mapping[str, str] | None = None,
    rules: Mapping[str, Rule] | None = None,
    extractors: Mapping[str, Rule] | None = None,
) -> FrameTask:
    """A task from a table with one question a row.

    Answers that are all numbers are read and compared as numbers, others as words, where a reply states them ("the
    answer is ..."). With choices the answer is a choice's label, and the task is asked and read as the multiple-choice
    benchmarks are.

    Args:
        frame: the table: a pandas `DataFrame`, a `datasets.Dataset`, anything else with `to_pandas`, a mapping from
            column to values, or dictionaries, one a row.
        name: the task's name.
        text: the column with the question.
        answer: the column with the gold answer.
        choices: the column with each question's choices: texts (labelled A, B and so on), a mapping from label to text,
            or a mapping with "label" and "text", as in ARC.
        id: the column with the ids, which must be distinct; by default ids are made from the questions as they are
            asked.
        split: the column with "extraction", "dev" or "test"; by default a hash of the id divides the questions
            70 : 15 : 15. Rows with the same question are in one split.
        replies: style -> the column with the assistant's replies in it; "direct" is made from the answer where you give
            none.
        rules: your own rules by name, the main one first, instead of the usual ones.
        extractors: the former name of `rules`, kept for one release.

    Returns:
        The task.

    Raises:
        ValueError: something that isn't a table, an empty one, a missing column, a cell that is empty or isn't text, an
            id twice, an unknown split, a question in two splits, an answer that isn't one of its choices or that the
            task's own rule can't read.

    >>> rows = [{"question": f"What is {i} + {i}?", "answer": 2 * i} for i in range(40)]
    >>> task = from_frame(rows, name="doubling")
    >>> task.read_answer("So the answer is $12.00."), task.read_answer("I have 12 apples.")
    ('12', None)
    """
    columns = {
        "text": text,
        "answer": answer,
        "choices": choices,
        "id": id,
        "split": split,
        **{f"replies[{s!r}]": c for s, c in (replies or {}).items()},
    }
    table = table_of(frame, name, columns)
    rows = table.to_dict("records")
    asked = [text_of(row[text], name, text, i) for i, row in enumerate(rows)]
    golds = [_written(row[answer], name, answer, i) for i, row in enumerate(rows)]
    usual: Mapping[str, Rule]
    if choices is not None:
        made = [
            _choice(name, i, asked[i], row[choices], gold)
            for i, (row, gold) in enumerate(zip(rows, golds, strict=True))
        ]
        usual = CHOICE
    else:
        numeric = all(map(is_number, golds))
        answers = [plain(g) if numeric else said(g) for g in golds]
        stated = answers if numeric else golds
        made = [
            Question("", question, a, {"direct": f"The answer is {s}."})
            for question, a, s in zip(asked, answers, stated, strict=True)
        ]
        usual = NUMBER if numeric else word_rules(golds)
    own = rules if rules is not None else extractors
    if own is None:
        _check_golds(name, made, golds, usual)
    ids = [str(row[id]) for row in rows] if id is not None else content_ids(q.text for q in made)
    first = {found: i for i, found in reversed(list(enumerate(ids)))}
    for i, found in enumerate(ids):
        if first[found] < i:
            raise ValueError(
                f"The id {found!r} of task {name!r} is in rows {first[found]} and {i}; ids must be distinct."
            )
    written = {
        style: [text_of(row[c], name, c, i) for i, row in enumerate(rows)] for style, c in (replies or {}).items()
    }
    questions = [
        Question(ids[i], q.text, q.answer, {**q.replies, **{style: w[i] for style, w in written.items()}}, q.choices)
        for i, q in enumerate(made)
    ]
    styles = tuple(dict.fromkeys(["direct", *(replies or {})]))
    listed = by_hash(questions) if split is None else _by_column(name, split, questions, rows)
    return FrameTask(name, listed, styles, usual if own is None else own, closes=choices is not None)


def _written(cell: Any, name: str, column: str, row: int) -> str:
    """A gold answer as text; numbers without an exponent."""
    if isinstance(cell, Number) and not isinstance(cell, bool) and is_number(found := format(Decimal(str(cell)), "f")):
        return found
    return text_of(cell, name, column, row).strip()


def _check_golds(name: str, made: Sequence[Question], golds: Sequence[str], rules: Mapping[str, Rule]) -> None:
    """Refuse gold answers that the main rule doesn't read where they are stated."""
    rule = next(iter(rules.values()))
    for i, question in enumerate(made):
        reply = question.replies["direct"]
        found = rule(question, reply + (f"{CLOSING} {question.answer}" if question.choices else ""))
        if not question.answer or found != question.answer:
            raise ValueError(
                f"The answer {golds[i]!r} of task {name!r} in row {i} can't be read by the task's own rule, which reads"
                f" {found!r} in {reply!r}; write it in a few plain words on one line, or pass rules= of your own."
            )


def _choice(name: str, row: int, text: str, cell: Any, gold: str) -> Question:
    texts = cell.tolist() if hasattr(cell, "tolist") else cell
    if isinstance(texts, Mapping) and set(texts) == {"label", "text"}:  # as in ARC and CommonsenseQA
        texts = dict(zip(texts["label"], texts["text"], strict=True))
    if isinstance(texts, Mapping):
        texts = {label: choice for label, choice in texts.items() if choice is not None}
    if not isinstance(texts, Mapping | Sequence) or isinstance(texts, str) or not 2 <= len(texts) <= len(LETTERS):
        raise ValueError(
            f"The choices of task {name!r} in row {row} are {cell!r}; give a list of two or more texts, or a mapping"
            " from label to text."
        )
    listed = texts.items() if isinstance(texts, Mapping) else zip(LETTERS, texts, strict=False)
    labelled = {str(label): text_of(choice, name, "choices", row) for label, choice in listed}
    if not all(label in ANY_CHOICE.choices for label in labelled):
        raise ValueError(
            f"The choices of task {name!r} in row {row} are labelled {', '.join(labelled)}; a label is one capital"
            " letter or digit."
        )
    if gold not in labelled:
        raise ValueError(
            f"The answer {gold!r} of task {name!r} in row {row} isn't one of its choices {', '.join(labelled)}; give"
            " the label of the right one."
        )
    return choice_question(text, labelled, gold)


def _by_column(
    name: str, column: str, questions: Sequence[Question], rows: Sequence[Mapping[Any, Any]]
) -> dict[str, list[Question]]:
    listed: dict[str, list[Question]] = {split: [] for split in SPLITS}
    places: dict[str, tuple[str, int]] = {}
    for i, (question, row) in enumerate(zip(questions, rows, strict=True)):
        if row[column] not in listed:
            raise ValueError(
                f"The split {row[column]!r} of task {name!r} in row {i} is unknown; choose one of: {', '.join(SPLITS)}."
            )
        place, before = places.setdefault(same_text(question.text), (row[column], i))
        if place != row[column]:
            raise ValueError(
                f"The question of task {name!r} in row {i} is in the {row[column]} split and, in row {before}, in the"
                f" {place} split, too; leave one of the two rows out."
            )
        listed[row[column]].append(question)
    return listed
