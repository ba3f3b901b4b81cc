"""The benchmarks: rows of our own in each dataset's schema, the hub's branch, what is refused, and the real files where
they are at hand.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kvsteer_lab import tasks
from kvsteer_lab.tasks.base import SPLITS, ListedTask, content_ids, split_of

Rows = list[dict[str, Any]]


def choice_rows(n: int, tag: str = "") -> Rows:
    def row(i: int) -> dict[str, Any]:
        labels = "1234" if i % 10 == 9 else "ABCDE"[: 3 + i % 3]
        choices = {
            "text": [f"{k} of {i}" for k in ("one", "two", "three", "four", "five")[: len(labels)]],
            "label": list(labels),
        }
        return {
            "id": f"{tag}r{i}",
            "question": f"What comes {tag}{i}th?",
            "choices": choices,
            "answerKey": labels[i % len(labels)],
        }

    return [row(i) for i in range(n)]


def piqa_rows(n: int) -> Rows:
    return [{"goal": f"Reach {i}", "sol1": f"go {i}", "sol2": f"stay {i}", "label": i % 2} for i in range(n)]


def gsm8k_rows(n: int, tag: str = "") -> Rows:
    return [
        {"question": f"How many {tag} are {i} and 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1:,}"}
        for i in range(n)
    ]


def write(folder: Path, name: str, rows: Rows) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def benchmark(name: str, folder: Path | None) -> ListedTask:
    task = tasks.get(name, folder)
    assert isinstance(task, ListedTask)
    return task


SINGLE: list[tuple[str, str, Callable[[int], Rows]]] = [
    ("arc_challenge", "arc_challenge_test", choice_rows),
    ("commonsense_qa", "csqa_validation", choice_rows),
    ("commonsense_qa", "commonsense_qa_validation", choice_rows),
    ("piqa", "piqa_validation", piqa_rows),
    ("gsm8k", "gsm8k_test", gsm8k_rows),
]


@pytest.mark.parametrize(("name", "file", "rows"), SINGLE)
def test_a_single_file_is_divided_by_the_hash_of_the_id(
    name: str, file: str, rows: Callable[[int], Rows], tmp_path: Path
) -> None:
    write(tmp_path, file, rows(300))
    task = benchmark(name, tmp_path)
    found = {split: task.questions(split) for split in task.splits}
    assert sum(map(len, found.values())) == 300 and len({q.id for qs in found.values() for q in qs}) == 300
    assert all(split_of(q.id) == split for split, qs in found.items() for q in qs)
    assert 180 < len(found["extraction"]) < 240 and min(len(found["dev"]), len(found["test"])) > 20
    backwards = tmp_path / "backwards"
    backwards.mkdir()
    write(backwards, file, rows(300)[::-1])
    again = benchmark(name, backwards)
    assert all({q.id for q in again.questions(split)} == {q.id for q in found[split]} for split in SPLITS)


def test_several_parts_are_the_splits(tmp_path: Path) -> None:
    write(tmp_path, "arc_challenge_train", choice_rows(100, "train"))
    write(tmp_path, "arc_challenge_test", choice_rows(40, "test"))
    task = benchmark("arc_challenge", tmp_path)
    assert len(task.questions("test")) == 40 and all("test" in q.text for q in task.questions("test"))
    assert len(task.questions("extraction")) + len(task.questions("dev")) == 100 and 5 < len(task.questions("dev")) < 30
    write(tmp_path, "arc_challenge_validation", choice_rows(30, "validation"))
    assert {split: len(benchmark("arc_challenge", tmp_path).questions(split)) for split in SPLITS} == {
        "extraction": 100,
        "dev": 30,
        "test": 40,
    }


def test_questions_are_asked_as_in_the_paper(tmp_path: Path) -> None:
    write(tmp_path, "arc_challenge_test", choice_rows(10))
    write(tmp_path, "csqa_validation", choice_rows(10))
    write(tmp_path, "piqa_validation", piqa_rows(10))
    texts = {
        name: {q.text: q for qs in benchmark(name, tmp_path).listed.values() for q in qs}
        for name in ("arc_challenge", "commonsense_qa", "piqa")
    }
    arc = texts["arc_challenge"]["What comes 0th?\n\nChoices:\nA: one of 0\nB: two of 0\nC: three of 0"]
    assert (arc.answer, dict(arc.choices)) == ("A", {"A": "one of 0", "B": "two of 0", "C": "three of 0"})
    numbered = texts["arc_challenge"][
        "What comes 9th?\n\nChoices:\n1: one of 9\n2: two of 9\n3: three of 9\n4: four of 9"
    ]
    assert numbered.answer == "2" and numbered.replies["direct"] == "The correct choice is 2."
    assert "What comes 0th?\nA: one of 0\nB: two of 0\nC: three of 0" in texts["commonsense_qa"]
    assert texts["piqa"]["Reach 1\n\nChoices:\nA: go 1\nB: stay 1"].answer == "B"
    task = tasks.get("arc_challenge", tmp_path)
    assert task.chat(arc) == [{"role": "user", "content": arc.text}] and task.closing == "\nSo the correct choice is"


def test_ids_come_from_the_question_and_a_repeated_one_is_kept(tmp_path: Path) -> None:
    # The id that the paper's released files give to this text.
    known = (
        "Danny found that the carpet did not ,match the drapes, which was disappointing, because this place was"
        " expensive.  But it was the only place"
    )
    known += (
        " in town that wasn't booked solid for the week and he needed it while he was in town, so he couldn't complain."
        "   Where might this place be?"
    )
    known += "\nA: brothel\nB: restaurant\nC: building\nD: bowling alley\nE: at hotel"
    assert content_ids([known, "x", known, known])[::2] == [
        "42d1c2ad-7dc2-54b7-8fb2-53e97301c210",
        "42d1c2ad-7dc2-54b7-8fb2-53e97301c210-2",
    ]
    write(tmp_path, "piqa_validation", piqa_rows(5) + piqa_rows(5))
    task = benchmark("piqa", tmp_path)
    ids = [q.id for qs in task.listed.values() for q in qs]
    assert len(ids) == len(set(ids)) == 10 and sum(i.endswith("-2") for i in ids) == 5


@pytest.mark.parametrize(("name", "file", "rows"), SINGLE)
def test_parquet_is_read_as_jsonl_is(name: str, file: str, rows: Callable[[int], Rows], tmp_path: Path) -> None:
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
    write(tmp_path / "a", file, rows(50))
    pq.write_table(pa.Table.from_pylist(rows(50)), tmp_path / "b" / f"{file}.parquet")
    assert benchmark(name, tmp_path / "a").listed == benchmark(name, tmp_path / "b").listed
    write(tmp_path / "b", file, rows(50))
    with pytest.raises(ValueError, match=r"both hold the part .*; keep one of them"):
        tasks.get(name, tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "hub", "config", "parts"),
    [
        ("gsm8k", "openai/gsm8k", "main", ("train", "test")),
        ("arc_challenge", "allenai/ai2_arc", "ARC-Challenge", ("train", "validation", "test")),
        ("commonsense_qa", "tau/commonsense_qa", None, ("train", "validation")),
        ("piqa", "ybisk/piqa", None, ("train", "validation")),
    ],
)
def test_without_a_folder_rows_come_from_the_hub(
    name: str, hub: str, config: str | None, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KVSTEER_DATA_DIR", raising=False)
    asked: list[tuple[Any, ...]] = []

    real = inspect.signature(datasets.load_dataset)

    def load_dataset(*args: Any, **settings: Any) -> datasets.Dataset:
        given = real.bind(*args, **settings).arguments
        path, name_, split, revision = (given[k] for k in ("path", "name", "split", "revision"))
        asked.append((path, name_, split, revision))
        i = parts.index(split) + 1
        if name == "piqa":
            rows = [{**row, "goal": f"{split} {row['goal']}"} for row in piqa_rows(10 * i)]
            found = datasets.Dataset.from_list(rows)
            return found.cast_column("label", datasets.ClassLabel(names=["0", "1"]))
        if name == "gsm8k":
            return datasets.Dataset.from_list(gsm8k_rows(10 * i, split))
        extra = [{**row, "question_concept": "x"} for row in choice_rows(10 * i, split)]
        return datasets.Dataset.from_list(extra)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = benchmark(name, None)
    assert asked == []  # nothing is loaded before it is asked for
    assert len(task.questions("test")) == 10 * len(parts) and all(parts[-1] in q.text for q in task.questions("test"))
    assert asked == [(hub, config, part, "refs/convert/parquet" if name == "piqa" else None) for part in parts]
    if len(parts) == 3:
        assert len(task.questions("dev")) == 20
    else:
        assert (
            len(task.questions("extraction", 1)) == 1 and sum(len(task.listed[s]) for s in ("extraction", "dev")) == 10
        )


def test_without_a_network_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVSTEER_DATA_DIR", raising=False)

    def offline(*args: Any, **settings: Any) -> None:
        raise ConnectionError("Couldn't reach 'tau/commonsense_qa' on the Hub (LocalEntryNotFoundError)\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    message = (
        r"Could not load train of tau/commonsense_qa on the hub \(Couldn't reach .*\); put csqa_train\.jsonl and"
        r" csqa_validation\.jsonl in a folder, and name"
    )
    with pytest.raises(ValueError, match=message + r" it with data_dir= or KVSTEER_DATA_DIR"):
        tasks.get("commonsense_qa").questions("dev")


def broken(change: dict[str, Any], drop: str = "") -> dict[str, Any]:
    row = {**choice_rows(1)[0], **change}
    return {k: v for k, v in row.items() if k != drop}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            broken({}, "answerKey"),
            (
                r"Row 2 of .*arc_challenge_test\.jsonl: column 'answerKey' is missing; the dataset's columns are id,"
                r" question, choices, answerKey"
            ),
        ),
        (broken({"question": 3}), "Row 2 of .*: column 'question' is wrong: Input should be a valid string"),
        (broken({"question": "  "}), "Row 2 of .*: column 'question' is blank"),
        (broken({"choices": {"text": ["a", "b"]}}), "Row 2 of .*: column 'choices.label' is missing"),
        (broken({"choices": ["a", "b"]}), "Row 2 of .*: column 'choices' is wrong"),
        (
            broken({"choices": {"text": ["a", "b"], "label": ["A"]}}),
            "column 'choices' is wrong: there are 1 labels and 2 texts",
        ),
        (
            broken({"choices": {"text": ["a", "b"], "label": ["A", "A"]}}),
            "the labels are 'A', 'A'; each must be a capital letter or digit of its own",
        ),
        (broken({"answerKey": "Z"}), "Row 2 of .*: it is wrong: the answer 'Z' isn't one of the choices A, B, C"),
        (broken({"answerKey": ""}), "the answer '' isn't one of the choices"),
        (["no", "row"], "Row 2 of .*: it is wrong"),
        (broken({"id": "r7"}), r"The id 'r7' is in row 1 of .* and again in row 2 of .*; ids must be distinct"),
    ],
)
def test_rows_outside_the_schema_are_refused(row: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path, "arc_challenge_test", [{**choice_rows(8)[7]}, row])
    with pytest.raises(ValueError, match=message):
        tasks.get("arc_challenge", tmp_path).questions("dev")


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("1", "column 'label' is wrong: Input should be 0 or 1"),
        (-1, "column 'label' is wrong"),
        (None, "'label' is wrong"),
    ],
)
def test_labels_of_piqa_are_checked(label: Any, problem: str, tmp_path: Path) -> None:
    write(tmp_path, "piqa_validation", [{**piqa_rows(1)[0], "label": label}])
    with pytest.raises(ValueError, match=f"Row 1 of .*: {problem}|{problem}"):
        tasks.get("piqa", tmp_path).questions("dev")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "piqa_validation.jsonl"
    for content, message in [
        (b"", r"piqa_validation\.jsonl is empty; put the dataset's rows there"),
        (
            json.dumps(piqa_rows(1)[0]).encode() + b"\n\n" + json.dumps(piqa_rows(2)[1]).encode()[:-9],
            r"Line 3 of .* can't be read as JSON: .*; the file may be cut off",
        ),
        (b"\xff\xfe", "can't be read as text in UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "is a pointer of Git LFS, not the file itself"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            tasks.get("piqa", tmp_path).questions("dev")
    path.unlink()
    (tmp_path / "piqa_validation.parquet").write_bytes(b"PAR1 half a file")
    with pytest.raises(
        ValueError, match=r"piqa_validation\.parquet can't be read as a parquet file \(.*\); copy it again"
    ):
        tasks.get("piqa", tmp_path).questions("dev")
    with pytest.raises(
        ValueError,
        match=(
            r"There is no csqa_train\.jsonl or csqa_validation\.jsonl \(or \.json, \.parquet\) in .*; put the dataset's"
            r" files there"
        ),
    ):
        tasks.get("commonsense_qa", tmp_path)


def test_a_byte_order_mark_empty_lines_and_an_array_are_read(tmp_path: Path) -> None:
    rows = piqa_rows(6)
    lines = "\n\n".join(json.dumps(row) for row in rows)
    forms = {
        "piqa_validation.jsonl": ["\ufeff" + lines, "\n" + lines + "\n \n\n", "\ufeff" + json.dumps(rows, indent=1)],
        "piqa_validation.json": [json.dumps(rows)],
    }
    for name, texts in forms.items():
        for text in texts:
            (tmp_path / name).write_text(text, encoding="utf-8")
            task = benchmark("piqa", tmp_path)
            assert sum(len(found) for found in task.listed.values()) == 6
        (tmp_path / name).unlink()


def test_nested_rows_are_refused_in_one_sentence(tmp_path: Path) -> None:
    deep = '{"goal": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (tmp_path / "piqa_validation.jsonl").write_text(deep)
    with pytest.raises(ValueError, match=r"Line 1 of .* can't be read as JSON: .*levels"):
        tasks.get("piqa", tmp_path).questions("dev")


def test_a_question_of_two_parts_is_in_the_later_one_only(tmp_path: Path) -> None:
    write(tmp_path, "gsm8k_train", gsm8k_rows(20))
    write(tmp_path, "gsm8k_test", gsm8k_rows(5))
    with pytest.warns(UserWarning, match="5 of the questions in the train part of gsm8k are in a later part, too"):
        task = benchmark("gsm8k", tmp_path)
        found = task.listed
    texts = {split: {q.text for q in questions} for split, questions in found.items()}
    assert len(texts["test"]) == 5 and len(texts["extraction"] | texts["dev"]) == 15
    assert not texts["test"] & (texts["extraction"] | texts["dev"])
    assert [q.id for q in found["test"]] == content_ids(q.text for q in found["test"]), "the ids of the test file alone"


def test_a_question_that_occurs_twice_is_in_one_split(tmp_path: Path) -> None:
    write(tmp_path, "piqa_validation", piqa_rows(40) * 3)
    task = benchmark("piqa", tmp_path)
    splits: dict[str, set[str]] = {}
    for split, questions in task.listed.items():
        for q in questions:
            splits.setdefault(q.text, set()).add(split)
    assert len(splits) == 40 and all(len(found) == 1 for found in splits.values())


def test_labels_that_no_rule_reads_are_refused(tmp_path: Path) -> None:
    row = {**choice_rows(1)[0], "choices": {"text": ["x", "y"], "label": ["a", "b"]}, "answerKey": "a"}
    write(tmp_path, "arc_challenge_test", [row])
    with pytest.raises(ValueError, match="the labels are 'a', 'b'; each must be a capital letter or digit of its own"):
        tasks.get("arc_challenge", tmp_path).questions("dev")


def test_a_home_folder_may_be_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "piqa_validation", piqa_rows(6))
    assert sum(len(found) for found in benchmark("piqa", Path("~")).listed.values()) == 6


def test_what_questions_and_demonstrate_refuse(tmp_path: Path) -> None:
    write(tmp_path, "piqa_validation", piqa_rows(1))
    task = benchmark("piqa", tmp_path)
    (split,) = (s for s in SPLITS if task.listed[s])
    empty = next(s for s in SPLITS if s != split)
    with pytest.raises(ValueError, match=f"The {empty} split of piqa is empty; it has questions in: {split}"):
        task.questions(empty)
    with pytest.raises(ValueError, match="Unknown split 'train'; choose one of: extraction, dev, test"):
        task.questions("train")
    with pytest.raises(
        ValueError, match=f"The {split} split of piqa has 1 questions, fewer than 2; ask for 0 to 1, or leave n out"
    ):
        task.questions(split, 2)
    with pytest.raises(ValueError, match=f"The {split} split of piqa can't give -1 questions"):
        task.questions(split, -1)
    with pytest.raises(
        ValueError, match=r"Task 'piqa' has replies in direct only, none in style 'stepwise'; .*kv\.traces\.with_traces"
    ):
        task.demonstrate(task.questions(split)[0], "stepwise")


@pytest.mark.skipif(
    not os.environ.get("KVSTEER_DATA_DIR"), reason="KVSTEER_DATA_DIR names no folder with the real files"
)
def test_the_real_files_load_whole_and_every_rule_reads_every_gold_reply() -> None:
    folder = Path(os.environ["KVSTEER_DATA_DIR"])
    folder = folder / "benchmarks" if (folder / "benchmarks").is_dir() else folder
    total = 0
    for name, count in (("arc_challenge", 1172), ("commonsense_qa", 1221), ("piqa", 1838), ("gsm8k", 1319 + 7473)):
        task = benchmark(name, folder)
        found = {split: task.questions(split) for split in SPLITS}
        questions = [q for split in SPLITS for q in found[split]]
        total += len(questions)
        assert len(questions) == len({q.id for q in questions}) == count
        for question in questions:
            assert (
                question.answer in question.choices
                if task.closing
                else float(question.answer) == float(question.answer)
            )
            reply = task.demonstrate(question, "direct")
            for text in (reply, f"{reply}{task.closing} {question.answer}") if task.closing else (reply,):
                assert {rule: read(question, text) for rule, read in task.rules.items()} == dict.fromkeys(
                    task.rules, question.answer
                ), text
            assert all(task.is_correct(question, task.demonstrate(question, style)) for style in task.styles)
            assert "<<" not in question.replies.get("stepwise", "")
        if name in ("arc_challenge", "commonsense_qa"):
            file = folder / ("arc_challenge_test.jsonl" if name == "arc_challenge" else "csqa_validation.jsonl")
            given = {json.loads(line)["id"] for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n")}
            assert {q.id for q in questions} == given  # ids of these files were made from the questions, too
    assert total == 13_023
    gsm8k = benchmark("gsm8k", folder)
    assert len(gsm8k.questions("test")) == 1319
