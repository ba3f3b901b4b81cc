"""The paper's answer rules, case by case: what they read, and where they err."""

import pytest

from kvsteer_lab.published.rescoring import check_metrics, choices_of
from kvsteer_lab.published.runs import Answer, ReleasedRun
from kvsteer_lab.tasks.paper import augmented_extract, last_digit, last_letter, refuses_choice, strict_match


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Birds fly.\nSo the correct choice is B.<|im_end|>", "B"),
        ("So the correct choice is: C", "C"),
        ("So the correct choice is:\n\n(D): a drum", "D"),
        ("So the correct choice is **A: a flute**", "A"),
        ("The correct answer is B. Then again, no.\nSo the correct choice is a flute.", "B"),
        ("The correct answer is the second one, B", None),  # a comma expresses doubt
        ("The correct answer is surely B", "B"),
        ("The correct answer is surely B or C", None),  # another letter follows
        ("The correct answer is not B", None),
        ("The best answer is D\nSo the correct choice is:", "D"),
        ("So the correct choice is option B", "B"),
        ("The final answer is E", "E"),
        ("I think the answer is A because", "A"),
        ("My final answer is C", "C"),
        ("So the correct choice is: Choice A: 24", "A"),
        ("Answer: B", "B"),
        ("C: a drum", "C"),
        (" C: a drum", None),  # only at the very start
        ("The answer is Apples", None),
        ("So the correct choice is [A] a flute", None),
        ("So the correct choice is 2.", None),  # numbered choices are unknown to it
        ("", None),
    ],
)
def test_augmented_extract_reads(text, read):
    assert augmented_extract(text) == read


def test_an_earlier_phrase_beats_a_later_one_and_the_last_occurrence_wins():
    assert augmented_extract("The answer is A. The correct choice is B. The answer is C.") == "B"
    assert augmented_extract("The correct choice is A. No, the correct choice is D.") == "D"


def test_letters_limit_what_is_read():
    assert augmented_extract("So the correct choice is C", "AB") is None
    assert augmented_extract("So the correct choice is C") == "C"


def test_last_letter_takes_capitals_inside_words():
    assert last_letter("So the correct choice is A: Earth turns") == "E"
    assert last_letter("So the correct choice is a flute. Additionally") == "A"
    assert last_letter("So the correct choice is C", "AB") is None


@pytest.mark.parametrize(
    "tail", ["not A or B.", "none of these", "to use a combination of both", "not among the options A, B, C"]
)
def test_refusals_to_choose(tail):
    text = f"Hm.\nSo the correct choice is {tail}"
    assert augmented_extract(text) is None and refuses_choice(text)


def test_only_what_follows_the_closing_words_can_refuse():
    assert not refuses_choice("It is A or B.\nSo the correct choice is:")
    assert not refuses_choice("It is A or B.")


@pytest.mark.parametrize(
    ("text", "last", "stated"),
    [
        ("That makes 18.", "18", None),
        ("The answer is 1,234. ", "1234", "1234"),
        ("The answer is 18", "18", "1"),  # the rule wants one more character after the number
        ("It costs $18.00", "1800", None),
        ("7 and -3", "-3", None),
        ("The answer is 5. Wait...", "", "5"),
        ("none", None, None),
    ],
)
def test_numbers(text, last, stated):
    assert last_digit(text) == last and strict_match(text) == stated


def run(texts, metrics, task="arc-oai", target="A", prompt="", stored=None):
    answers = tuple(
        Answer(str(i), target, text, (stored or [{}] * len(texts))[i], prompt) for i, text in enumerate(texts)
    )
    return ReleasedRun("a.json", {"model": "m", "task": task}, metrics, answers)


def test_a_metric_is_matched_to_nine_digits():
    texts = ["So the correct choice is A", "So the correct choice is B", "So the correct choice is B"]
    (near,), (off,) = (check_metrics(run(texts, {"augmented_extract": value})) for value in (1 / 3, 1 / 3 + 2e-9))
    assert near.matches and near.by == "rule" and not off.matches


def test_two_choices_are_seen_in_the_prompt_or_in_the_tasks_name():
    texts = ["So the correct choice is A: Carefully"]
    two = "user\nWhich?\nA: one\nB: two<|im_end|>"
    assert check_metrics(run(texts, {"last_letter": 1.0}, prompt=two))[0].matches
    assert check_metrics(run(texts, {"last_letter": 1.0}, task="piqa-oai"))[0].matches
    assert check_metrics(run(texts, {"last_letter": 0.0}))[0].matches, "with five letters it reads the C of Carefully"
    stored = [{"last_letter": "C"}]
    assert check_metrics(run(texts, {"last_letter": 0.0}, task="piqa-oai", stored=stored))[0].matches, (
        "the file itself shows that five were used"
    )


def test_a_language_models_reading_is_counted_as_stored_and_an_unknown_rule_is_not_invented():
    stored = [{"llm_extract": "A"}, {"llm_extract": "B"}]
    found = check_metrics(run(["x", "y"], {"llm_extract": 0.5, "charm": 0.5}, stored=stored))
    assert [(check.metric, check.by, check.matches) for check in found] == [
        ("llm_extract", "stored", True),
        ("charm", "nothing", False),
    ]


@pytest.mark.parametrize("claimed", [None, "0.5", True, float("nan"), [0.5]])
def test_a_metric_that_is_no_number_does_not_match(claimed):
    assert not check_metrics(run(["So the correct choice is A"], {"augmented_extract": claimed}))[0].matches


def test_changed_verdicts_are_counted():
    stored = [{"augmented_extract": "A"}, {"augmented_extract": "[invalid]"}, {"augmented_extract": "C"}]
    texts = ["So the correct choice is A", "nothing", "So the correct choice is B"]
    assert check_metrics(run(texts, {"augmented_extract": 1 / 3}, stored=stored))[0].changed == 1


def test_choices_are_those_of_the_last_question():
    prompt = (
        "user\nFirst?\nA: x\nB: y\nC: z<|im_end|>\nassistant\nA<|im_end|>\nuser\nSecond?\n\nChoices:\nA: red\nB:"
        " blue<|im_end|>\nassistant\n"
    )
    assert choices_of(prompt) == {"A": "red", "B": "blue"}
    assert choices_of("Which?\n1: ten\n2: twenty<|im_end|>") == {"1": "ten", "2": "twenty"}
    assert choices_of("How many plums?") == {}
