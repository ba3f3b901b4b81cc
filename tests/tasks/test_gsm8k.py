"""GSM8K from files in the dataset's own form, rows of our own."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

import kvsteer_lab as kv
from kvsteer_lab import tasks
from kvsteer_lab.tasks.gsm8k import GSM8K


def row(i: int) -> dict[str, str]:
    steps = (
        f"Ann has {i} * 3 = <<{i}*3={3 * i}>>{3 * i} shells.\nShe finds {3 * i} + 1,000 ="
        f" <<{3 * i}+1000={3 * i + 1000}>>{3 * i + 1000} in all."
    )
    return {
        "question": f"Ann finds {i} shells on each of 3 days, and 1,000 more. How many is that?",
        "answer": f"{steps}\n#### {3 * i + 1000:,}",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part, numbers in (("train", range(200)), ("test", range(500, 520))):
        lines = "".join(json.dumps(row(i), ensure_ascii=False) + "\n" for i in numbers)
        (tmp_path / f"gsm8k_{part}.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def test_rows_become_questions_with_replies_in_two_styles(data: Path) -> None:
    question = GSM8K(data).questions("test")[3]
    assert (question.id, question.answer) == (str(uuid.uuid5(uuid.NAMESPACE_DNS, question.text)), "2509")
    assert question.replies["direct"] == "The answer is 2509."
    assert (
        question.replies["stepwise"]
        == "Ann has 503 * 3 = 1509 shells.\nShe finds 1509 + 1,000 = 2509 in all.\nThe answer is 2509."
    )


def test_splits_are_disjoint_and_the_test_file_is_the_test_split(data: Path) -> None:
    task = GSM8K(data)
    ids = {split: {q.id for q in task.questions(split)} for split in ("extraction", "dev", "test")}
    assert len(ids["test"]) == 20 and "Ann finds 507 shells" in task.questions("test")[7].text
    assert not ids["test"] & (ids["extraction"] | ids["dev"])
    assert not ids["extraction"] & ids["dev"] and len(ids["extraction"] | ids["dev"]) == 200
    assert 10 < len(ids["dev"]) < 60
    with pytest.raises(ValueError, match="Unknown split 'train'; choose one of: extraction, dev, test"):
        task.questions("train")


def test_a_seed_fixes_the_order(data: Path) -> None:
    task = GSM8K(data)
    one, again, other = (task.questions("extraction", 20, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert task.questions("extraction", 5) == task.questions("extraction")[:5]
    with pytest.raises(ValueError, match="The test split of gsm8k has 20 questions, fewer than 21"):
        task.questions("test", 21)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 1,234", "1234"),
        ("The answer is $12.50.", "12.5"),
        ("First 3, then 4. The answer is 7. Then 9.", "7"),
        ("so 3 + 4 = 7", None),  # nothing marks it: unread
        ("-5", "-5"),
        ("The answer is 18.00", "18"),
        ("no idea", None),
        ("", None),
    ],
)
def test_answers_are_read(text: str, answer: str | None, data: Path) -> None:
    assert GSM8K(data).read_answer(text) == answer


def test_every_gold_reply_is_correct_and_a_wrong_one_is_not(data: Path) -> None:
    task = GSM8K(data)
    for question in task.questions("extraction", 30):
        assert all(task.is_correct(question, reply) for reply in question.replies.values())
        assert task.is_correct(question, f"#### {int(question.answer):,}")
        assert not task.is_correct(question, f"The answer is {int(question.answer) + 1}.")


def test_pairs_are_made_from_it(data: Path, model: kv.Model) -> None:
    pairs = kv.ContrastiveSet.few_shot(tasks.get("gsm8k", data), model.tokenizer, style="stepwise", n=4, shots=2)
    positive, negative = next(iter(pairs))
    assert (
        positive.count("Ann has") == 2
        and "Ann has" not in negative
        and positive.count("The answer is") == negative.count("The answer is") == 2
    )


def test_files_are_found_in_the_environment_s_folder_and_in_benchmarks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVSTEER_DATA_DIR", str(data))
    assert len(tasks.get("gsm8k").questions("test")) == 20
    (data / "benchmarks").mkdir()
    for path in data.glob("*.jsonl"):
        path.rename(data / "benchmarks" / path.name)
    assert len(tasks.get("gsm8k").questions("test")) == 20


def test_line_separators_in_a_question_do_not_end_its_row(data: Path) -> None:
    odd = {"question": "one\u2028two\x85three", "answer": "1\n#### 1"}
    (data / "gsm8k_test.jsonl").write_text(json.dumps(odd, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [q.text for q in GSM8K(data).questions("test")] == ["one\u2028two\x85three"]


def test_missing_and_broken_files_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"There is no gsm8k_train\.jsonl or gsm8k_test\.jsonl \(or \.json, \.parquet\) in .*none; put the"
            r" dataset's files there"
        ),
    ):
        GSM8K(tmp_path / "none")
    with (data / "gsm8k_train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"question": "half a')
    with pytest.raises(
        ValueError,
        match=r"Line 201 of .*gsm8k_train\.jsonl can't be read as JSON: .*; the file may be cut off, copy it again",
    ):
        GSM8K(data).questions("dev")
    (data / "gsm8k_train.jsonl").write_text(json.dumps({"question": "How many?", "answer": "many"}) + "\n")
    with pytest.raises(
        ValueError,
        match=r"Row 1 of .*gsm8k_train\.jsonl: column 'answer' is wrong: it doesn't end in '####' and a number",
    ):
        GSM8K(data).questions("dev")


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=(
            "There is no task 'gsm9k'; choose one of: tiny-arithmetic, tiny-tracking, gsm8k, arc_challenge,"
            " commonsense_qa, piqa"
        ),
    ):
        tasks.get("gsm9k")
