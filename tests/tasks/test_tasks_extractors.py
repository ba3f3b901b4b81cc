"""The rules that read answers: what each reads, and what it must not read."""

from __future__ import annotations

import threading

import pytest

from kvsteer_lab import tasks
from kvsteer_lab.tasks import rules as extractors
from kvsteer_lab.tasks.base import Question
from kvsteer_lab.tasks.rules import CLOSING

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
        (" B or C", "B"),
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
def test_two_stage_reads_the_letter_right_behind_the_closing_words(tail: str, letter: str | None) -> None:
    assert extractors.two_stage(LETTERS, f"It may be D. The answer is D.{CLOSING}{tail}") == letter


def test_without_the_question_any_letter_is_read_but_no_article() -> None:
    for tail, letter in ((" F", "F"), (" 3.", "3"), (" A restaurant", None), (" a", None)):
        assert extractors.two_stage(extractors.ANY_CHOICE, f"Hm.{CLOSING}{tail}") == letter


def test_two_stage_goes_by_the_last_closing_words_and_reads_nothing_without_any() -> None:
    assert extractors.two_stage(LETTERS, f"So the correct choice is A.{CLOSING} C") == "C"
    assert extractors.two_stage(LETTERS, "The correct choice is B.") == "B"
    assert extractors.two_stage(LETTERS, f"x{CLOSING} D. The correct choice is not A") == "D"
    assert extractors.two_stage(LETTERS, "The answer is B.") is None and extractors.two_stage(LETTERS, "") is None


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
    assert extractors.two_stage(NUMBERED, f"Hm.{CLOSING}{tail}") == label


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
    assert extractors.strict_choice(LETTERS, reply) == letter
    assert extractors.strict_choice(LETTERS, f"{reply}{CLOSING} A") == letter


def test_the_paper_s_rules_look_for_the_question_s_letters() -> None:
    text = f"Earth.{CLOSING} B: restaurant, Apple"
    assert extractors.augmented_extract(LETTERS, text) == "B" and extractors.last_letter(LETTERS, text) == "A"
    assert extractors.augmented_extract(NUMBERED, f"Hm.{CLOSING} 2") == extractors.last_letter(NUMBERED, "2 E") == "2"
    two = Question("q", "?", "A", choices={"A": "x", "B": "y"})
    assert extractors.augmented_extract(two, f"Hm.{CLOSING} C") is None and extractors.last_letter(two, "A, C") == "A"


# text, last_number, strict, math_verify
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
    ("The answer is 1/2.", "1", "0.5", "0.5"),
    ("The answer is 2/3", "2", "2/3", "2/3"),
    ("The answer is $\\boxed{42}$", "42", "42", "42"),
    ("so it is $\\boxed{1,234}$ coins", "1234", None, "1234"),
    ("so it is \\(-\\frac{3}{4}\\)", "4", None, "-0.75"),
    ("The answer is 5 or 6.", "5", None, None),
    ("The answer is 5*3 = 15", "5", None, None),
    ("The answer is 5. The answer is 6.", "6", None, None),
    ("I don't think the answer is 5.", "5", None, None),
    ("The answer is not 5, it is six", "5", None, None),
    ("#### 5\n6 more", "5", "5", None),
    ("The answer is 1/0", "1", None, None),
    ("1,2,3", "3", None, None),
    (".5", "0.5", None, None),
    ("no idea", None, None, None),
    ("", None, None, None),
]


@pytest.mark.parametrize(("text", "last", "strict", "verified"), NUMBERS)
def test_numbers(text: str, last: str | None, strict: str | None, verified: str | None) -> None:
    assert (extractors.last_number(OPEN, text), extractors.strict_number(OPEN, text)) == (last, strict)
    if verified is not None:
        assert extractors.math_verify(OPEN, text) == verified


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
    assert extractors.math_verify(OPEN, text) is None


def test_math_verify_works_in_a_thread() -> None:
    found: list[str | None] = []
    thread = threading.Thread(
        target=lambda: found.append(extractors.math_verify(OPEN, "The answer is $\\frac{6}{4}$."))
    )
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
    for question, rules in ((LETTERS, extractors.CHOICE), (OPEN, extractors.NUMBER)):
        for rule in rules.values():
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
    assert extractors.plain(number) == form


@pytest.mark.parametrize("name", ["tiny-arithmetic", "tiny-tracking"])
def test_the_bundled_tasks_rules_read_every_reply(name: str) -> None:
    task = tasks.get(name)
    for question in task.questions("dev", 60):
        for style in task.styles:
            reply = task.demonstrate(question, style)
            assert {rule: read(question, reply) for rule, read in task.extractors.items()} == {
                "answer": question.answer,
                "strict": question.answer,
            }
        twice = (
            f"The answer is {question.answer}. The answer is"
            f" {'B' if question.answer == 'A' else 'A' if question.choices else 99}."
        )
        assert task.extractors["strict"](question, twice) is None and task.read_answer(twice) != question.answer
        if question.choices:
            assert list(question.choices) == list("ABCD") and all(
                f"{letter}: {room}" in question.text for letter, room in question.choices.items()
            )
