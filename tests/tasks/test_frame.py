"""Tasks from a table: what becomes of its rows, and what is refused."""

from __future__ import annotations

import unicodedata
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
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
    assert list(task.rules) == ["marked", "strict", "last_number", "math_verify"] and task.is_correct(
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
    strict = task.rules["strict"]
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
        task.closing and task.is_correct(question, f"Hm.{task.closing} B: y") and next(iter(task.rules)) == "two_stage"
    )
    with pytest.raises(ValueError, match="The test split of mine is empty; it has questions in: dev"):
        task.questions("test")


def test_rules_of_one_s_own_come_first() -> None:
    task = kv.tasks.from_frame(
        CAPITALS, name="capitals", rules={"last_word": lambda question, text: text.split()[-1].lower()}
    )
    assert task.is_correct(every(task)["Capital of Peru?"], "it is Lima") and list(task.rules) == ["last_word"]


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
            "The answer 'C' of task 't' in row 1 isn't one of its choices A, B; give the label",
        ),
    ],
)
def test_bad_tables_are_refused(table: pd.DataFrame, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.tasks.from_frame(table, name="t", **settings)


ROWS = [{"question": f"How many is {i} and {i}?", "answer": 2 * i} for i in range(30)]


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        iter(ROWS),
        {"question": [row["question"] for row in ROWS], "answer": [row["answer"] for row in ROWS]},
        datasets.Dataset.from_list(ROWS),
        pa.Table.from_pylist(ROWS),
        pd.DataFrame(ROWS, index=range(7, 37)),
        pd.DataFrame(ROWS, index=["same"] * 30),
    ],
    ids=lambda given: type(given).__name__,
)
def test_tables_come_in_many_forms(given: Any) -> None:
    task = kv.tasks.from_frame(given, name="t")
    assert {q.text: q.answer for q in every(task).values()} == {row["question"]: str(row["answer"]) for row in ROWS}


def test_choices_of_a_dataset_are_read_in_the_benchmarks_form() -> None:
    rows = [
        {"question": "Which?", "answer": "B", "choices": {"label": ["A", "B"], "text": ["x", "y"]}},
        {"question": "And which?", "answer": "C", "choices": {"label": ["A", "B", "C"], "text": ["x", "y", "z"]}},
    ]
    for given in (datasets.Dataset.from_list(rows), rows):
        task = kv.tasks.from_frame(given, name="t", choices="choices")
        assert {q.answer: list(q.choices) for q in every(task).values()} == {"B": ["A", "B"], "C": ["A", "B", "C"]}
    # A struct of Arrow has the same fields in each row; those that are empty are no choices.
    mapped = datasets.Dataset.from_list(
        [
            {"question": "Which?", "answer": "B", "c": {"A": "x", "B": "y"}},
            {"question": "2?", "answer": "C", "c": {"C": "z", "A": "x"}},
        ]
    )
    assert {tuple(q.choices) for q in every(kv.tasks.from_frame(mapped, name="t", choices="c")).values()} == {
        ("A", "B"),
        ("A", "C"),
    }


def test_a_repeated_question_is_in_one_split() -> None:
    """The same question under forty ids would be in all three splits by their hashes."""
    text = ["How many legs has a spider?"] * 39 + ["How many legs  has a spider? "]
    for table, settings in (
        (pd.DataFrame({"question": text, "answer": 8}), {}),
        (pd.DataFrame({"question": text, "answer": 8, "key": range(40)}), {"id": "key"}),
    ):
        task = kv.tasks.from_frame(table, name="t", **settings)
        assert sorted(len(task.listed[s]) for s in SPLITS) == [0, 0, 40]


def test_composed_and_decomposed_characters_are_the_same_question_and_answer() -> None:
    nfc, nfd = unicodedata.normalize("NFC", "Zürich"), unicodedata.normalize("NFD", "Zürich")
    table = pd.DataFrame(
        {"question": [f"Where is {nfc}?", f"Where is {nfd}?"], "answer": ["here", "here"], "s": ["dev", "test"]}
    )
    with pytest.raises(
        ValueError, match="The question of task 't' in row 1 is in the test split and, in row 0, in the dev split, too"
    ):
        kv.tasks.from_frame(table, name="t", split="s")
    task = kv.tasks.from_frame(pd.DataFrame({"question": ["Which town?"], "answer": [nfc]}), name="t")
    (question,) = every(task).values()
    assert task.is_correct(question, f"The answer is {nfd}.") and task.is_correct(
        question, f"The answer is {nfc}, of course."
    )


@pytest.mark.parametrize(
    "gold",
    [
        "St. Louis",
        "yes",
        "Yes, Minister",
        "J. R. R. Tolkien",
        "vitamin C",
        "because it rains",
        "A",
        "a: b",
        "well-known",
        "1/2",
        "red, white and blue",
    ],
)
def test_gold_answers_of_words_are_read_where_they_are_stated(gold: str) -> None:
    task = kv.tasks.from_frame(pd.DataFrame({"question": ["a", "b"], "answer": [gold, "no"]}), name="w")
    for question in every(task).values():
        assert all(rule(question, question.replies["direct"]) == question.answer for rule in task.rules.values())
        assert task.is_correct(question, f"The answer is {question.answer}, because it rains.")


@pytest.mark.parametrize("gold", ["two\nlines", "x" * 600, "..."])
def test_gold_answers_that_the_rule_cannot_read_are_refused(gold: str) -> None:
    table = pd.DataFrame({"question": ["a", "b"], "answer": ["yes", gold]})
    with pytest.raises(ValueError, match=r"The answer '.*' of task 't' in row 1 can't be read by the task's own rule"):
        kv.tasks.from_frame(table, name="t")
    kv.tasks.from_frame(
        table, name="t", rules={"mine": lambda question, text: text}
    )  # one's own rules are one's own affair


def test_numbers_without_an_exponent() -> None:
    task = kv.tasks.from_frame(pd.DataFrame({"question": ["a", "b"], "answer": [1e20, 2e-7]}), name="t")
    assert {q.answer for q in every(task).values()} == {"1" + "0" * 20, "0.0000002"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "a table",
            "What was given as the table of task 't' is a str; pass a DataFrame, a datasets.Dataset, or a list",
        ),
        ([1, 2], "What was given as the table of task 't' is a list"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), "has the parts train; pass one of them"),
        ({"question": ["a"], "answer": ["1", "2"]}, "What was given as the table of task 't' isn't one"),
        (
            [{"question": [{"type": "text", "text": "a"}], "answer": 1}],
            "Column 'question' of task 't' holds a list in row 0; it needs plain text",
        ),
        (
            [{"question": {"role": "user", "content": "a"}, "answer": 1}],
            "Column 'question' of task 't' holds a dict in row 0",
        ),
        ([{"question": b"a", "answer": 1}], "Column 'question' of task 't' holds a bytes in row 0"),
        ([{"question": None, "answer": 1}], "Column 'question' of task 't' is empty in row 0"),
        (
            [{"question": "a \ud83d b", "answer": 1}],
            r"The table of task 't' holds half of a character \(a lone surrogate\) in 'a .* b'; mend",
        ),
        (
            pd.DataFrame({"question": pd.Series(["a \ud83d b"], dtype=object), "answer": 1}),
            "Column 'question' of task 't' holds half of a character",
        ),
        ([{"question": "a", "answer": ["x", "y"]}], "Column 'answer' of task 't' holds a list in row 0"),
        (pd.DataFrame([["a", "b", 1]], columns=["question", "question", "answer"]), "has the column 'question' twice"),
    ],
)
def test_what_is_not_a_table_of_texts_is_refused(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv.tasks.from_frame(table, name="t")


def test_the_former_names_still_work() -> None:
    mine = {"last_word": lambda question, text: text.split()[-1].lower()}
    task = kv.tasks.from_frame(CAPITALS, name="capitals", extractors=mine)
    assert list(task.rules) == list(task.extractors) == ["last_word"] and kv.tasks.Extractor is kv.tasks.Rule

    class Former(type(task)):  # a subclass that was written for an earlier release
        @property
        def extractors(self) -> Any:
            return {**super().extractors, "more": lambda question, text: None}

    former = Former("f", task.listed, task.styles, mine, False)
    assert list(former.rules) == list(former.extractors) == ["last_word", "more"]
