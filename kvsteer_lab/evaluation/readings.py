"""How a reply is read: every rule's answer, whether it is right, its style; and kept replies read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..tasks.base import Question, Task
from ..tasks.styles import detect_style, is_reasoned


def read_reply(task: Task, question: Question, answer: str, closing: str, letter: str | None) -> dict[str, Any]:
    """The columns of a row that can be computed from its texts.

    With a second stage, rules read the reply, the closing words and their continuation; where the main rule reads
    nothing, the likeliest letter is taken (the paper's forced choice).

    Args:
        task: whose rules read.
        question: what was asked.
        answer: the response prefill and the reply.
        closing: closing words and their continuation; empty without a second stage.
        letter: the likeliest choice; `None` without a second stage.

    Returns:
        `gold`, `read_answer`, `choice_forced`, `correct`, `style`, `reasoned` and one `by_RULE` a rule.

    Raises:
        ValueError: a rule returns something that is neither a text nor `None`.

    >>> import kvsteer_lab as kv
    >>> task = kv.tasks.get("tiny-arithmetic")
    >>> question = task.questions("dev", 1)[0]
    >>> read_reply(task, question, f"The answer is {question.answer}.", "", None)["correct"]
    True
    """
    verdicts = {f"by_{name}": _text(name, rule(question, answer + closing)) for name, rule in task.rules.items()}
    read = next(iter(verdicts.values()))
    forced = letter is not None and read is None
    if letter is not None:
        verdicts["by_likelihood"] = letter
        read = letter if forced else read
    return dict(
        gold=question.answer,
        read_answer=read,
        choice_forced=forced,
        correct=read == question.answer,
        style=detect_style(answer),
        reasoned=is_reasoned(answer),
        **verdicts,
    )


def read_again(task: Task, questions: Mapping[str, Question], rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of an evaluation with their kept texts read anew; texts, tokens and labels stay as they are.

    Args:
        task: whose rules read.
        questions: by id.
        rows: as `kv.evaluate` wrote them.

    Raises:
        ValueError: as `read_reply`.
    """
    letters = rows["by_likelihood"] if "by_likelihood" in rows else pd.Series([None] * len(rows), index=rows.index)
    columns = [c for c in rows.columns if not c.startswith("by_")]
    found = [
        {**row, **read_reply(task, questions[row["question"]], row["forced"] + row["text"], row["closing"], letter)}
        for row, letter in zip(rows[columns].to_dict("records"), letters.where(letters.notna(), None), strict=True)
    ]
    rules = [f"by_{name}" for name in task.rules] + (["by_likelihood"] if "by_likelihood" in rows else [])
    return pd.DataFrame(found, columns=[*columns, *rules])


def _text(rule: str, value: Any) -> str | None:
    """What a rule has read, as text: a whole number is written out, anything else is refused."""
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:  # a number from numpy
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(
        f"The rule {rule!r} read {value!r}, a {type(value).__name__}; a rule that reads answers returns a text, or None"
        " where it finds none."
    )
