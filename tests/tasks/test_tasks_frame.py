"""Tasks from a table: what becomes of its rows, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import kvsteer_lab as kv
from kvsteer_lab.tasks.base import SPLITS, split_of

CAPITALS = pd.DataFrame(
    {
        "question": ["Capital of France?", "Capital of Peru?", "Capital of Kenya?"],
        "answer": ["Paris", "Lima", "Nairobi"],
    }
)


def every(task: Any) -> dict[str, Any]:
    return {q.text: q for split in SPLITS for q in task.listed[split]}


def test_three_lines_make_a_task(model: kv.Model) -> None:
    frame = pd.DataFrame(
        {"question": [f"What is {i} plus {i}?" for i in range(80)], "answer": [2 * i for i in range(80)]}
    )
    task = kv.tasks.from_frame(frame, name="doubling")
    results = kv.evaluate(
        model, task, kv.CoTPrompt(), split="dev", n=3, generation={"max_new_tokens": 4}, progress=False
    )
    assert results.rows["question"].nunique() == 3 and {split_of(q.id) for q in task.questions("test")} == {"test"}


def test_numbers_are_compared_as_numbers() -> None:
    frame = pd.DataFrame({"q": ["a?", "b?"], "gold": ["1,200", 0.50], "key": ["one", "two"]})
    found = every(kv.tasks.from_frame(frame, name="n", text="q", answer="gold", id="key"))
    assert [(q.id, q.answer, q.replies["direct"]) for q in (found["a?"], found["b?"])] == [
        ("one", "1200", "The answer is 1200."),
        ("two", "0.5", "The answer is 0.5."),
    ]
    task = kv.tasks.from_frame(frame, name="n", text="q", answer="gold", id="key")
    assert list(task.extractors) == ["last_number", "strict", "math_verify"] and task.is_correct(
        found["b?"], "So the answer is 0.500"
    )
    assert task.read_answer("#### 1,200.0") == "1200" and task.closing is None


def test_words_are_compared_as_words() -> None:
    task = kv.tasks.from_frame(CAPITALS, name="capitals")
    paris = every(task)["Capital of France?"]
    assert paris.answer == "paris" and paris.replies["direct"] == "The answer is Paris."
    assert task.is_correct(paris, "It has a tower. The answer is: **Paris**. It is big.") and not task.is_correct(
        paris, "The answer is Lima."
    )
    strict = task.extractors["strict"]
    assert (
        strict(paris, "The answer is Lima. No, the answer is Paris.") is None
        and strict(paris, "The answer is the Paris!") == "paris"
    )
    assert strict(paris, "I don't think the answer is Lima.") is None and task.read_answer("Paris") is None


@pytest.mark.parametrize("cell", [["x", "y"], ("x", "y"), np.array(["x", "y"]), {"A": "x", "B": "y"}])
def test_choices_are_asked_and_read_as_the_benchmarks_are(cell: Any) -> None:
    frame = pd.DataFrame(
        {
            "question": ["Which?"],
            "answer": ["B"],
            "options": [cell],
            "split": ["dev"],
            "why": ["Because y. The correct choice is B."],
        }
    )
    task = kv.tasks.from_frame(frame, name="mine", choices="options", split="split", replies={"stepwise": "why"})
    (question,) = task.questions("dev")
    assert question.text == "Which?\n\nChoices:\nA: x\nB: y" and dict(question.choices) == {"A": "x", "B": "y"}
    assert task.styles == ("direct", "stepwise") and task.demonstrate(question, "stepwise").startswith("Because")
    assert (
        task.closing
        and task.is_correct(question, f"Hm.{task.closing} B: y")
        and next(iter(task.extractors)) == "two_stage"
    )
    with pytest.raises(ValueError, match="The test split of mine is empty; it has questions in: dev"):
        task.questions("test")


def test_rules_of_one_s_own_come_first() -> None:
    task = kv.tasks.from_frame(
        CAPITALS, name="capitals", extractors={"last_word": lambda question, text: text.split()[-1].lower()}
    )
    assert task.is_correct(every(task)["Capital of Peru?"], "it is Lima") and list(task.extractors) == ["last_word"]


def test_rows_that_occur_twice_are_kept() -> None:
    task = kv.tasks.from_frame(pd.concat([CAPITALS, CAPITALS]), name="capitals")
    assert sum(len(task.listed[s]) for s in SPLITS) == 6 == len({q.id for s in SPLITS for q in task.listed[s]})


def frame(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"question": ["a?", "b?"], "answer": ["A", "B"], **columns})


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        (
            frame(),
            {"text": "prompt"},
            r"The table has no column 'prompt'; name one of its columns as text=: question, answer",
        ),
        (
            frame(),
            {"replies": {"stepwise": "steps"}},
            r"no column 'steps'; name one of its columns as replies\['stepwise'\]=",
        ),
        (frame().iloc[:0], {}, "The table of task 't' has no rows; a task needs at least one question"),
        (frame(answer=["A", None]), {}, "Column 'answer' of task 't' is empty in row 1; fill the cell in"),
        (frame(question=["a?", " "]), {}, "Column 'question' of task 't' is empty in row 1"),
        (frame(key=["x", "x"]), {"id": "key"}, "The id 'x' of task 't' is in rows 0 and 1; ids must be distinct"),
        (
            frame(part=["dev", "train"]),
            {"split": "part"},
            "The split 'train' of task 't' in row 1 is unknown; choose one of: extraction, dev, test",
        ),
        (
            frame(c=[["x", "y"], ["x"]]),
            {"choices": "c"},
            r"The choices of task 't' in row 1 are \['x'\]; give a list of two or more texts",
        ),
        (frame(c=[["x", "y"], "xy"]), {"choices": "c"}, "The choices of task 't' in row 1 are 'xy'; give a list"),
        (
            frame(c=[["x", "y"], {"no": "x", "yes": "y"}]),
            {"choices": "c"},
            "in row 1 are labelled no, yes; a label is one capital letter or digit",
        ),
        (
            frame(c=[["x", "y"]] * 2, answer=["A", "C"]),
            {"choices": "c"},
            "The answer 'C' of task 't' in row 1 is none of its choices A, B; give the label",
        ),
    ],
)
def test_bad_tables_are_refused(table: pd.DataFrame, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.tasks.from_frame(table, name="t", **settings)
