"""Traces from files: what is read, what is refused, and the contrastive sets that are made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from toy import Toy

import kvsteer_lab as kv
from kvsteer_lab.tasks.base import Task
from kvsteer_lab.tasks.traces.journal import holds_traces
from kvsteer_lab.tasks.traces.task import TracedTask


def row(i: int, **other: Any) -> dict[str, Any]:
    return {"id": f"toy/{i}", "style": "analogical", "text": f"Just like {i} tables. The answer is {4 * i}.", **other}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" if not isinstance(r, str) else r for r in rows),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "traces.jsonl", [row(i) for i in range(20)])


# --- reading --------------------------------------------------------------------------------------------------


def test_rows_are_read_whatever_their_names(tmp_path: Path) -> None:
    rows = [
        {"question": "Why?\u2028Why?", "style": "causal_chain", "trace": "If so,\nthen so.", "model": "m", "answer": 7},
        {"id": 3, "style": "pirate", "text": "Arr.", "question": "Where?"},
    ]
    traces = kv.Traces.load(write(tmp_path / "t.jsonl", ["\ufeff", *rows, "\n"]))
    first, second = traces
    assert (first.id, first.question, first.style, first.text, first.answer) == (
        None,
        "Why?\u2028Why?",
        "causal_chain",
        "If so,\nthen so.",
        "7",
    )
    assert (second.id, second.style, second.text) == ("3", "pirate", "Arr.")
    assert traces.styles == ("causal_chain", "pirate") and len(traces) == 2
    assert repr(traces).startswith("Traces(1 causal_chain, 1 pirate; from ")


def test_a_style_may_be_named_for_rows_that_have_none(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"id": "a", "text": "x"}, {"id": "b", "text": "y", "style": "direct"}])
    assert [t.style for t in kv.Traces.load(path, style="stepwise")] == ["stepwise", "direct"]


def test_a_table_s_rows_will_do(file: Path) -> None:
    frame = pd.read_json(file, lines=True)
    assert kv.Traces.from_rows(frame.to_dict("records")).rows == kv.Traces.load(file).rows


def test_the_digest_is_of_what_is_said_in_whatever_order(file: Path, tmp_path: Path) -> None:
    digest = kv.Traces.load(file).digest
    assert kv.Traces.load(write(tmp_path / "turned.jsonl", [row(i) for i in reversed(range(20))])).digest == digest
    assert kv.Traces.load(write(tmp_path / "less.jsonl", [row(i) for i in range(19)])).digest != digest


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "There are no traces in .*; write one JSON object a line, with 'text', 'style', and 'id' or 'question'"),
        ([row(1), '{"id": "half a\n'], r"Line 2 of .*t\.jsonl can't be read as JSON: .*; write one trace a line"),
        ([row(1), '{"id": "half a'], r"Line 2 of .*t\.jsonl can't be read as JSON"),
        ([row(1), "\n", [1, 2]], r"Line 3 of .* is a list and not a JSON object"),
        (
            [{"id": "a", "style": "direct"}],
            r"Line 1 of .* has no 'text'; a trace needs the whole reply there \(or in 'trace'\)",
        ),
        (
            [{"id": "a", "text": "x"}],
            r"Line 1 of .* has no 'style'; add one, or pass style= if all these traces have the same",
        ),
        ([{"style": "direct", "text": "x"}], "Line 1 of .* has neither 'id' nor 'question'; add one of them"),
        ([row(1), row(2, text=" ")], "Line 2 of .* has ' ' as its 'text'; some text is needed there"),
        ([row(1), row(2, text=["x"])], r"Line 2 of .* has \['x'\] as its 'text'; some text is needed there"),
        ([row(1), row(2, style=4)], "Line 2 of .* has 4 as its 'style'"),
        (
            [row(1), row(2), row(1)],
            "Line 3 of .* answers the question of line 1 in style 'analogical' again; keep one of the two",
        ),
    ],
)
def test_what_is_no_trace_is_refused_by_its_line(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        kv.Traces.load(write(tmp_path / "t.jsonl", rows))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "csqa.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"is a folder; name the file of traces in it: .*csqa\.jsonl"):
        kv.traces.Traces.load(tmp_path)
    with pytest.raises(ValueError, match=r"There are no traces at .*absent: No such file"):
        kv.Traces.load(tmp_path / "absent")
    (tmp_path / "latin").write_bytes(b'{"id": "\xe9"}')
    with pytest.raises(ValueError, match=r"latin is not UTF-8 text .* at byte 8.*; save it as UTF-8"):
        kv.Traces.load(tmp_path / "latin")
    with pytest.raises(ValueError, match="There are no traces; pass at least one row"):
        kv.Traces.from_rows([])


def test_an_array_and_tables_are_read_as_lines_are(tmp_path: Path) -> None:
    rows = [row(i) for i in range(4)]
    lines = kv.Traces.load(write(tmp_path / "t.jsonl", rows)).rows
    array = tmp_path / "t.json"
    for text in (json.dumps(rows), "\ufeff \n" + json.dumps(rows, indent=1)):
        array.write_text(text, encoding="utf-8")
        assert kv.Traces.load(array).rows == lines
    for table in (pd.DataFrame(rows, index=range(3, 7)), datasets.Dataset.from_list(rows), iter(rows)):
        assert kv.Traces.from_rows(table).rows == lines
    array.write_text("[1]")
    with pytest.raises(ValueError, match=r"Object 1 of .* is a int and not a JSON object"):
        kv.Traces.load(array)


def test_empty_cells_of_a_table_are_missing_and_its_integers_are_ids() -> None:
    table = pd.DataFrame({"id": [3, 4], "question": ["a?", None], "style": "s", "text": "x"})
    assert [(t.id, t.question) for t in kv.Traces.from_rows(table)] == [("3", "a?"), ("4", None)]
    table = pd.DataFrame({"question": ["a?", "b?"], "style": "s", "text": ["x", float("nan")]})
    with pytest.raises(ValueError, match="Line 2 of these rows has no 'text'"):
        kv.Traces.from_rows(table)


def test_what_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "a", "style": "s", "text": "\\ud83d"}')
    with pytest.raises(ValueError, match=r"Line 1 of .* can't be read as JSON: it holds half of a surrogate pair"):
        kv.Traces.load(tmp_path / "t.jsonl")
    with pytest.raises(ValueError, match="Line 1 of these rows holds half of a character"):
        kv.Traces.from_rows([row(1, text="a \ud83d b")])
    (tmp_path / "t.jsonl").write_text('{"id": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match=r"Line 1 of .* can't be read as JSON: .*levels"):
        kv.Traces.load(tmp_path / "t.jsonl")
    assert not holds_traces(tmp_path / "t.jsonl")


# --- tasks with traces ----------------------------------------------------------------------------------------


def test_contrastive_sets_are_made_of_traces_and_direct_replies(file: Path, tokenizer: Any) -> None:
    traces = kv.Traces.load(file)
    task = kv.with_traces(Toy(), traces)
    assert task.name == "toy" and task.styles == ("direct", "stepwise", "analogical")
    assert {q.id for q in task.questions("extraction")} == {f"toy/{i}" for i in range(20)}
    pairs = kv.ContrastiveSet.few_shot(task, tokenizer, style="analogical", n=12, shots=3)
    for positive, negative in pairs:
        assert positive.count("Just like") == 3 and "Just like" not in negative and negative.count("The answer is") == 3
    assert pairs.recipe["traces"] == traces.digest and set(pairs.recipe["questions"]) <= {f"toy/{i}" for i in range(20)}


def test_questions_are_found_by_their_text_where_there_is_no_id(tokenizer: Any) -> None:
    rows = [
        {"question": f"  How many legs have {i}\n{a}s? ", "style": "stepwise", "trace": f"Step 1: traced {i}."}
        for i, a in enumerate(("dog", "fox"))
    ]
    task = kv.with_traces(Toy(), kv.Traces.from_rows(rows))
    assert [task.demonstrate(q, "stepwise") for q in task.questions("extraction")] == [
        "Step 1: traced 0.",
        "Step 1: traced 1.",
    ]


def test_ids_of_the_traces_own_do_not_hide_their_questions() -> None:
    asked = Toy().questions("extraction", 2)
    rows = [{"id": f"row-{i}", "question": q.text, "style": "s", "text": f"x{i}"} for i, q in enumerate(asked)]
    task = kv.with_traces(Toy(), kv.Traces.from_rows(rows))
    assert [(q.id, q.replies["s"]) for q in task.questions("extraction")] == [("toy/0", "x0"), ("toy/1", "x1")]


def test_questions_are_found_in_composed_and_decomposed_characters() -> None:
    class Town(Toy):
        def questions(self, *arguments: Any) -> list[Any]:
            return [replace(q, text="Where is Zu\u0308rich?") for q in super().questions(*arguments)[:1]]

    traces = kv.Traces.from_rows([{"question": "Where is Z\u00fcrich?", "style": "s", "text": "There."}])
    assert len(kv.with_traces(Town(), traces).questions("extraction")) == 1


def test_only_questions_with_replies_in_both_styles_are_used(tokenizer: Any) -> None:
    rows = [row(i) for i in range(10)] + [
        row(i, style="causal_chain", text=f"If {i} then so. The answer is {4 * i}.") for i in range(6, 20)
    ]
    task = kv.with_traces(Toy(), kv.Traces.from_rows(rows))
    pairs = kv.ContrastiveSet.few_shot(task, tokenizer, style="analogical", against="causal_chain", n=4, shots=2)
    assert set(pairs.recipe["questions"]) <= {f"toy/{i}" for i in range(6, 10)}
    with pytest.raises(
        ValueError,
        match=(
            "has 4 questions for extraction, too few for 5 pairs with 2 shots; counted are those with replies in both"
            " styles"
        ),
    ):
        kv.ContrastiveSet.few_shot(task, tokenizer, style="analogical", against="causal_chain", n=5, shots=2)
    with pytest.raises(ValueError, match="no replies in style 'rude'"):
        kv.ContrastiveSet.few_shot(task, tokenizer, style="rude", n=4, shots=2)


def test_in_a_style_of_the_traces_only_they_count() -> None:
    rows = [row(0), row(1, style="stepwise", text="Step 1: traced.")]
    task = kv.with_traces(Toy(), kv.Traces.from_rows(rows))
    untraced, traced = task.questions("extraction")
    assert (
        task.demonstrate(traced, "stepwise") == "Step 1: traced."
        and task.demonstrate(untraced, "direct") == "The answer is 0."
    )
    with pytest.raises(ValueError, match="No trace answers question 'toy/0' in style 'stepwise'"):
        task.demonstrate(untraced, "stepwise")
    assert kv.FewShot.of_style(task, "stepwise", 1).examples[1]["content"] == "Step 1: traced."


def test_test_questions_never_meet_a_trace(file: Path) -> None:
    class Split(Toy):
        def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Any]:
            half = {"extraction": slice(0, 10), "dev": slice(10, 15), "test": slice(15, 60)}[split]
            return super().questions(split)[half][:n]

    task = kv.with_traces(Split(), kv.Traces.load(file))
    assert len(task.questions("extraction")) == 10
    for split in ("dev", "test"):
        assert task.questions(split) == Split().questions(split) and all(
            "analogical" not in q.replies for q in task.questions(split)
        )


def test_seeds_fix_the_order_and_n_the_number(file: Path) -> None:
    task = kv.with_traces(Toy(), kv.Traces.load(file))
    one, again, other = (task.questions("extraction", 20, seed) for seed in (1, 1, 2))
    assert one == again != other and sorted(one, key=lambda q: q.id) == sorted(other, key=lambda q: q.id)
    with pytest.raises(ValueError, match="Traces answer 20 extraction questions of toy, fewer than 21; ask for fewer"):
        task.questions("extraction", 21)


def test_the_rest_of_the_task_is_as_it_was(file: Path) -> None:
    """Whatever a task can do, the wrapped one does as the task itself does; a member added to `Task` must be passed on,
    too.
    """
    plain = kv.tasks.get("tiny-tracking")
    question = plain.questions("extraction", 1)[0]
    task = kv.with_traces(plain, kv.Traces.from_rows([{"question": question.text, "style": "pirate", "text": "Arr."}]))
    assert task.chat(question) == plain.chat(question) and list(task.rules) == list(plain.rules)
    assert (task.splits, task.closing) == (plain.splits, plain.closing)
    assert task.is_correct(question, question.replies["direct"]) and task.read_answer("The answer is B.") == "B"
    public = {name for name in (*vars(Task), *Task.__annotations__) if not name.startswith("_")}
    assert public <= {*vars(TracedTask), *vars(task)}, "TracedTask passes on all there is"


def test_traces_may_come_without_a_task(tokenizer: Any) -> None:
    rows = [{"question": f"Q{i}?", "style": s, "text": f"{s} {i}"} for i in range(8) for s in ("long", "short")]
    task = kv.with_traces(None, kv.Traces.from_rows(rows))
    pairs = kv.ContrastiveSet.few_shot(task, tokenizer, style="long", against="short", n=8, shots=2)
    assert pairs.positive[0].count("long") == 2 and pairs.negative[0].count("short") == 2
    with pytest.raises(ValueError, match="Traces alone have no test split; evaluate on a task"):
        task.questions("test")
    with pytest.raises(ValueError, match="The traces answer 8 questions, fewer than 9; ask for fewer"):
        task.questions("extraction", 9)
    with pytest.raises(ValueError, match="Traces alone have no rule to read answers"):
        task.read_answer("4")
    with pytest.raises(
        ValueError, match="The trace of id 'toy/1' has no 'question'; without a task the question's text is needed"
    ):
        kv.with_traces(None, kv.Traces.from_rows([row(1)]))


def test_traces_of_something_else_are_refused(file: Path) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"None of the 20 traces from .* answers an extraction question of task 'tiny-arithmetic'; their 'id'"
            r" must be"
        ),
    ):
        kv.with_traces(kv.tasks.get("tiny-arithmetic"), kv.Traces.load(file))
    with pytest.raises(
        ValueError,
        match="The trace of id 'toy/1' from memory answers another question than the one that task has under this id",
    ):
        kv.with_traces(Toy(), kv.Traces.from_rows([row(1, question="How many wings?")]))
