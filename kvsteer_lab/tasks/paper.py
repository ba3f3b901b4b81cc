"""The answer rules of the paper's evaluation, as pure functions of a finished reply.

Re-written from how the authors' public evaluation behaves, and equal to the verdict that their files store for each of
the 56,412 multiple-choice generations at hand. They are here to be compared with, errors included; `kvsteer_lab.tasks`
has stricter ones.

The paper's replies have two or three stages: the text, then the words `CLOSING` and at most ten more tokens, and, where
`augmented_extract` still finds neither a letter nor a refusal to choose, one forced letter after those words. All
rules read the whole reply, closing words included.
"""

from __future__ import annotations

import functools
import re

CLOSING = "So the correct choice is"
"""The words that are put after a finished reply to a multiple-choice question."""

LETTERS = "ABCDE"
"""The letters that the paper's rules know, however many choices a question has."""

_OPENINGS = (
    *(
        "[Tt]he correct choice is:?",
        "[Tt]he correct answer is:?",
        "[Tt]he best answer is:?",
        "[Tt]he correct choice is option:?",
        "[Tt]he final answer is:?",
    ),
    *("[Tt]he answer is:?", "[Ff]inal answer is:?", "[Tt]he best answer is option:?", "[Aa]nswer:"),
)
_DOUBT = "not|n't|incorrect|wrong|and|or|combination|all of|[,;]"
_LIST = r"[A-E](?:\s*(?:,|or|and)\s*[A-E])+"
_NO_CHOICE = re.compile(
    rf"\b(?:none|no correct|no answer|no option|(?:options?|choices?)\s+{_LIST}|{_LIST}|combination of)\b",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_STATED = re.compile(r"The answer is (-?[0-9.,]+).")


def augmented_extract(text: str, letters: str = LETTERS) -> str | None:
    """The letter after the first phrase, in a fixed order of twelve, that occurs anywhere in the reply; of that
    phrase, the last occurrence.

    "The correct choice is" comes first, so the second stage wins where it names a letter; then "The correct answer is"
    and so on, last "Answer:" and a letter with a colon at the very start. Brackets, hyphens and bold marks are dropped
    before.

    It errs where the reply goes on after its letter ("The correct choice is A because ..., no, B"), takes the article
    in "The best answer is A dog" for a choice, takes letters that aren't among the choices (C, where there are only A
    and B), and doesn't know numbered choices.

    Args:
        text: the whole reply, with the closing words and what follows them.
        letters: the choices' letters, as in "ABCD". The paper's own runs use A to E for every task.

    Returns:
        The letter, or `None`; `refuses_choice` then tells the paper's "[incorrect]" from its "[invalid]".

    >>> augmented_extract("It is red. So the correct choice is B.")
    'B'
    """
    text = _plain(text)
    for pattern in _patterns(letters):
        found = pattern.findall(text)
        if found:
            return str(found[-1])
    return None


def last_letter(text: str, letters: str = LETTERS) -> str | None:
    """The last capital among `letters` anywhere in the reply, inside words, too; `None` if there is none.

    It errs wherever a capital follows the answer: "A: Earth turns" gives E, and "So the correct choice is oil
    companies." gives whatever capital came before. The paper's runs look for A to E, and for A and B in two-choice
    tasks.

    Args:
        text: the whole reply, with the closing words and what follows them.
        letters: the choices' letters.

    >>> last_letter("So the correct choice is A: Earth turns.")
    'E'
    """
    found = [character for character in text if character in letters]
    return found[-1] if found else None


def refuses_choice(text: str) -> bool:
    """Whether a reply in which `augmented_extract` finds nothing says after the closing words that it takes none or
    several of the choices.

    The paper counts such a reply as wrong ("[incorrect]"); others ("[invalid]") get a forced letter.

    >>> refuses_choice("So the correct choice is none of these.")
    True
    """
    _, found, tail = text.rpartition(CLOSING)
    return bool(found) and _NO_CHOICE.search(_plain(tail)) is not None


def last_digit(text: str) -> str | None:
    """The last number in the reply, without dollar signs, commas and points; `None` if there is none.

    It errs on decimals ("18.00" gives 1800), on whatever number follows the answer, and on dots in a row, which it
    takes for an empty number. No released numeric run was at hand to check it on.

    >>> last_digit("It costs $18.00")
    '1800'
    """
    found = _AMOUNT.findall(text)
    return _bare(found[-1]) if found else None


def strict_match(text: str) -> str | None:
    """The number after the last "The answer is", without commas and points, as `last_digit`; `None` if the phrase
    isn't there.

    It errs on other wordings and on "The answer is $18". At the reply's very end, without a full stop, it loses the
    last digit. No released numeric run was at hand to check it on.

    >>> strict_match("The answer is 1,234 or so.")
    '1234'
    """
    found = _STATED.findall(text)
    return _bare(found[-1]) if found else None


@functools.cache
def _patterns(letters: str) -> tuple[re.Pattern[str], ...]:
    """The twelve phrases in the order in which they are tried, as patterns whose one group is the letter."""
    letter = f"[{re.escape(letters)}]"
    plain = [rf"{opening}\s*({letter})\b" for opening in _OPENINGS]
    # Up to fifty characters may stand between, unless they express doubt or the next of these capitals is another lone
    # letter.
    loose = (
        r"\b[Tt]he correct answer"
        rf" is:?\s*(?:(?!{_DOUBT}).){{0,50}}?\b({letter})\b(?![^{re.escape(letters)}]*\b{letter}\b)"
    )
    named = rf"[Tt]he correct choice is:?\s*Choice\s+({letter})\s*:"
    ordered = [*plain[:2], loose, *plain[2:-1], named, plain[-1], rf"^({letter})\s*:"]
    return tuple(re.compile(pattern) for pattern in ordered)


def _plain(text: str) -> str:
    """One line without brackets, hyphens and bold marks."""
    return re.sub(r"\s+", " ", re.sub(r"[()]", "", re.sub(r"\*\*|[-\n]", " ", text)))


def _bare(number: str) -> str:
    return re.sub(r"[,.$]", "", number.strip())
