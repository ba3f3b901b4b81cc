"""The rules that read answers: what each reads, and what it must not read."""

from __future__ import annotations

import json
import os
import random
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from timing import takes_less_than

from kvsteer_lab import tasks
from kvsteer_lab.tasks import rules
from kvsteer_lab.tasks.base import Question
from kvsteer_lab.tasks.rules import CLOSING
from kvsteer_lab.tasks.styles import detect_style
from kvsteer_lab.tasks.thoughts import after_thoughts

LETTERS = Question(
    "q", "Where is it?", "B", choices={"A": "bowling alley", "B": "restaurant", "C": "shop", "D": "at hotel"}
)
NUMBERED = Question("q", "Which is it?", "2", choices={"1": "a 5-kg object", "2": "kg of iron", "3": "a feather"})
OPEN = Question("q", "How many?", "7")


@pytest.mark.parametrize(
    ("tail", "letter"),
    [
        (" B", "B"),
        (" B: restaurant", "B"),
        (": **(C)** shop", "C"),
        (" option D, at hotel", "D"),
        (" $\\boxed{B}$", "B"),
        (" \\boxed{\\text{B}}", "B"),
        ("\nB", "B"),
        (' "A".', "A"),
        (" B or C", None),  # two of the choices
        (" A because it is so", "A"),
        (" A bowling alley", "A"),  # the choice's own words
        (" A restaurant", None),  # an article
        (" a", None),
        (" E", None),  # not among the choices
        (" not B", None),
        (" Bowling", None),
        (" A-frame", None),
        (" restaurant B", None),
        (" ", None),
        ("", None),
    ],
)
def test_two_stage_reads_the_letter_right_after_the_closing_words(tail: str, letter: str | None) -> None:
    assert rules.two_stage(LETTERS, f"It may be D. The answer is D.{CLOSING}{tail}") == letter


def test_without_the_question_any_letter_is_read_but_no_article() -> None:
    for tail, letter in ((" F", "F"), (" 3.", "3"), (" A restaurant", None), (" a", None)):
        assert rules.two_stage(rules.ANY_CHOICE, f"Hm.{CLOSING}{tail}") == letter


def test_two_stage_goes_by_the_last_closing_words_and_reads_nothing_without_any() -> None:
    assert rules.two_stage(LETTERS, f"So the correct choice is A.{CLOSING} C") == "C"
    assert rules.two_stage(LETTERS, "The correct choice is B.") == "B"
    assert rules.two_stage(LETTERS, f"x{CLOSING} D. The correct choice is not A") == "D"
    assert rules.two_stage(LETTERS, "The answer is B.") is None and rules.two_stage(LETTERS, "") is None


@pytest.mark.parametrize(
    ("tail", "label"),
    [
        (" 2", "2"),
        (" 2: kg of iron", "2"),
        (" 2 kg of iron", "2"),
        (" 2 metres", None),
        (" 2.5", None),
        (" 4", None),
        (" 12", None),
        (" 1 a 5-kg object", "1"),
    ],
)
def test_numbered_choices_are_told_from_amounts(tail: str, label: str | None) -> None:
    assert rules.two_stage(NUMBERED, f"Hm.{CLOSING}{tail}") == label


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is B.", "B"),
        ("**Answer: (B)**", "B"),
        ("So the best option is C: shop.", "C"),
        ("Hence $\\boxed{D}$.", "D"),
        ("The answer is B. As I said, the answer is B.", "B"),
        ("The answer is A. No, the answer is B.", None),
        ("The answer is A or B.", None),
        ("The answer is B, C", None),
        ("The answer is **A** and **C**", None),
        ("I don't think that the answer is B.", None),
        ("If the answer is B, we are done.", None),
        ("The answer is not B.", None),
        ("The answer isn't B. The answer is C.", "C"),
        ("The answer is E.", None),
        ("The answer is a restaurant.", None),
        ("A restaurant is best. B.", None),
        ("Look at each option:\n\nA. bowling alley: no.", None),
        ("The correct option:\n\nA. bowling alley", "A"),
        ("The best choice is A restaurant.", None),
        ("", None),
    ],
)
def test_strict_reads_one_stated_letter_of_the_reply_itself(reply: str, letter: str | None) -> None:
    assert rules.strict_choice(LETTERS, reply) == letter
    assert rules.strict_choice(LETTERS, f"{reply}{CLOSING} A") == letter


def test_the_paper_s_rules_look_for_the_question_s_letters() -> None:
    text = f"Earth.{CLOSING} B: restaurant, Apple"
    assert rules.augmented_extract(LETTERS, text) == "B" and rules.last_letter(LETTERS, text) == "A"
    assert rules.augmented_extract(NUMBERED, f"Hm.{CLOSING} 2") == rules.last_letter(NUMBERED, "2 E") == "2"
    two = Question("q", "?", "A", choices={"A": "x", "B": "y"})
    assert rules.augmented_extract(two, f"Hm.{CLOSING} C") is None and rules.last_letter(two, "A, C") == "A"


# text, last_number, strict, math_verify; `marked_number` reads what `strict` does, and more (see the fixture)
NUMBERS = [
    ("#### 1,234", "1234", "1234", "1234"),
    ("The answer is $12.50.", "12.5", "12.5", "12.5"),
    ("The answer is -$5.", "-5", "-5", None),
    ("The answer is −5.", "-5", "-5", "-5"),
    ("The answer is **18.00**", "18", "18", "18"),
    ("The answer is 007", "7", "7", "7"),
    ("First 3, then 4. The answer is 7. Then 9.", "7", "7", "7"),
    ("so 10-4=6", "6", None, "6"),
    ("10-4", "4", None, "6"),
    ("between 3-4 kg", "4", None, None),
    ("The answer is 5 apples.", "5", "5", "5"),
    ("The answer is 5kg", "5", "5", "5"),
    ("The answer is 50%.", "50", "50", "50"),
    ("The answer is 1/2.", "0.5", "0.5", "0.5"),
    ("The answer is 2/3", "2/3", "2/3", "2/3"),
    ("The answer is $\\boxed{42}$", "42", "42", "42"),
    ("so it is $\\boxed{1,234}$ coins", "1234", "1234", "1234"),
    ("so it is \\(-\\frac{3}{4}\\)", "4", None, "-0.75"),
    ("The answer is 5 or 6.", None, None, None),
    ("The answer is 5*3 = 15", "15", "15", None),
    ("The answer is 5. The answer is 6.", "6", None, None),
    ("I don't think the answer is 5.", "5", None, None),
    ("The answer is not 5, it is six", "5", None, None),
    ("#### 5\n6 more", "5", "5", None),
    ("The answer is 1/0", None, None, None),
    ("1,2,3", "3", None, None),
    (".5", "0.5", "0.5", None),
    ("no idea", None, None, None),
    ("", None, None, None),
]


@pytest.mark.parametrize(("text", "last", "strict", "verified"), NUMBERS)
def test_numbers(text: str, last: str | None, strict: str | None, verified: str | None) -> None:
    assert (rules.last_number(OPEN, text), rules.strict_number(OPEN, text)) == (last, strict)
    if verified is not None:
        assert rules.math_verify(OPEN, text) == verified


@pytest.mark.parametrize(
    "text",
    [
        "The answer is $10^{10^{10}}$",
        "answer is 9**9**9**9",
        "$1000000000!$",
        "$\\sqrt{2}$",
        "$x > 3$",
        "no idea",
        "$\\frac{1}{0}$",
        "",
    ],
)
def test_math_verify_evaluates_nothing_large_and_says_none_instead(text: str) -> None:
    assert rules.math_verify(OPEN, text) is None


def test_math_verify_works_in_a_thread() -> None:
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(rules.math_verify(OPEN, "The answer is $\\frac{6}{4}$.")))
    thread.start()
    thread.join()
    assert found == ["1.5"]


@pytest.mark.parametrize(
    "text",
    [
        "9" * 9000,
        "1 " * 3000,
        "(" * 9000,
        "\\boxed{" * 1500,
        "the answer is " * 700,
        "the correct choice is" + "(" * 9000,
    ],
)
def test_degenerate_replies_are_read_quickly_and_raise_nothing(text: str) -> None:
    for question, named in ((LETTERS, rules.CHOICE), (OPEN, rules.NUMBER)):
        for rule in named.values():
            rule(question, text)


@pytest.mark.parametrize(
    ("number", "form"),
    [
        ("1,234.50", "1234.5"),
        ("-0", "0"),
        ("+3", "3"),
        ("$.50", "0.5"),
        ("100", "100"),
        ("−2.0", "-2"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_numbers(number: str, form: str) -> None:
    assert rules.plain(number) == form


@pytest.mark.parametrize("name", ["tiny-arithmetic", "tiny-tracking"])
def test_the_bundled_tasks_rules_read_every_reply(name: str) -> None:
    task = tasks.get(name)
    for question in task.questions("dev", 60):
        for style in task.styles:
            reply = task.demonstrate(question, style)
            assert {rule: read(question, reply) for rule, read in task.rules.items()} == {
                "answer": question.answer,
                "strict": question.answer,
            }
        twice = (
            f"The answer is {question.answer}. The answer is"
            f" {'B' if question.answer == 'A' else 'A' if question.choices else 99}."
        )
        assert task.rules["strict"](question, twice) is None and task.read_answer(twice) != question.answer
        if question.choices:
            assert list(question.choices) == list("ABCD") and all(
                f"{letter}: {room}" in question.text for letter, room in question.choices.items()
            )


# --- replies with their right readings, by kind -----------------------------------------------------------------

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "fixtures" / "answers.json").read_text("utf-8")
)


def readings(case: dict[str, Any]) -> dict[str, str | None]:
    """What each rule that fits a case reads in it, the main one first."""
    question, text = OPEN, case["reply"]
    if case["kind"] == "number":
        named = {"marked": rules.marked_number, "strict": rules.strict_number}
    elif case["kind"] == "words":
        named = dict(rules.word_rules(case["choices"]))
    else:
        question = Question("q", "", "", choices=case["choices"])
        named = {"strict": rules.strict_choice}
        if case["kind"] == "after closing words":
            named, text = {"two_stage": rules.two_stage}, f"Hm.{CLOSING}{text}"
    return {name: rule(question, text) for name, rule in named.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["reply"][:40])
def test_each_kind_of_reply_is_read_and_nothing_is_guessed(case: dict[str, Any]) -> None:
    main, *others = readings(case).values()
    assert main == case["right"]
    assert all(found in (main, None) for found in others), "a stricter rule reads the same, or nothing"


def test_the_strict_rules_read_most_of_what_the_main_rules_read() -> None:
    read = [list(readings(case).values()) for case in CASES if case["right"] is not None]
    assert sum(found[-1] is not None for found in read) > 0.9 * len(read)


def test_a_reply_without_a_mark_is_unread_and_the_guess_has_a_name() -> None:
    reply = "She has 9 eggs and sells them for 2 dollars each, which makes 18 dollars."
    assert list(rules.NUMBER) == ["marked", "strict", "last_number", "math_verify"]
    assert [rules.NUMBER[name](OPEN, reply) for name in ("marked", "strict", "last_number")] == [None, None, "18"]


def test_the_last_number_is_taken_only_where_nothing_is_stated() -> None:
    assert rules.last_number(OPEN, "9 eggs at 2 dollars. The answer is eighteen.") is None
    assert rules.last_number(OPEN, "It is 18.\n\nQuestion: Tim has 3 and gets 4?\nAnswer: 7") == "18"


@pytest.mark.parametrize(
    "thoughts", ["<think>The answer is 5.</think>", "The answer is 5.\n</think>\n\n", "[THINK]5[/THINK]"]
)
def test_rules_and_styles_look_after_the_thoughts(thoughts: str) -> None:
    step = "Step 1: 3 + 3 = 6. The answer is 6."
    for rule in rules.NUMBER.values():
        assert rule(OPEN, thoughts + step) == "6"
    assert detect_style(thoughts + step) == "stepwise" and after_thoughts(thoughts + step).strip() == step
    assert tasks.get("tiny-arithmetic").read_answer(thoughts + step) == "6"
    assert rules.last_said(OPEN, thoughts + "The answer is yes.") == "yes"
    assert rules.strict_choice(LETTERS, f"<think>The answer is A.</think>The answer is B.{CLOSING} C") == "B"


def test_thoughts_that_never_end_hold_no_answer() -> None:
    text = "<think>The answer is 5. Or is it"
    assert rules.marked_number(OPEN, text) is rules.last_number(OPEN, text) is rules.math_verify(OPEN, text) is None
    assert rules.two_stage(LETTERS, f"{text}{CLOSING} B") == "B"


ENDLESS = {
    "newlines": "a" + "\n" * 50_000 + "b",
    "newlines after a mark": "The answer is" + "\n" * 50_000 + "x",
    "newlines before a mark": "\n" * 50_000 + "answer: 5",
    "a word": "word " * 50_000,
    "words of marks": " ".join(random.Random(0).choices("the answer is not 5 B , #### step 1 if".split(), k=50_000)),
    "one mark": "answer: " * 50_000,
    "steps": "step 1\n" * 50_000,
    "boxes": "\\boxed{" * 10_000,
    "letters": "The correct answer is A " * 10_000,
    "digits": "1" * 50_000,
    "groups": "123," * 20_000 + "1",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_every_rule_is_linear(name: str) -> None:
    text = ENDLESS[name]
    named = {
        **rules.CHOICE,
        **rules.NUMBER,
        **rules.word_rules(["yes", "no"]),
        "style": lambda _, text: detect_style(text),
    }
    named["math_verify"](OPEN, "1")  # its packages are imported
    for rule, read in named.items():
        for whole in (text, text + CLOSING + " B"):
            question = LETTERS if rule in rules.CHOICE else OPEN
            # most take 0.02 s; the quadratic ones took 8 to 25 s
            assert takes_less_than(1, partial(read, question, whole)), rule


@pytest.mark.skipif("KVSTEER_DATA_DIR" not in os.environ, reason="needs GSM8K's files")
def test_all_human_steps_of_gsm8k_are_read() -> None:
    task = tasks.get("gsm8k")
    found = [q for split in task.splits for q in task.questions(split)]
    assert len(found) == 8792
    for q in found:
        assert all(task.is_correct(q, reply) for reply in q.replies.values())
    strict = [rules.strict_number(q, q.replies["stepwise"]) for q in found]
    assert all(read in (q.answer, None) for q, read in zip(found, strict, strict=True)) and strict.count(None) == 3
