"""Rules that read an answer out of a reply, for multiple choice and for numbers. What can't be read is `None`, never a
guess.

Each takes the question and the whole text. Where a task has closing words, that is the reply, those words and the few
tokens with which the model completed them. Numbers come back in one plain form (`plain`), so that they can be compared
as strings.
"""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Mapping
from fractions import Fraction

from . import paper
from .base import Extractor, Question

CLOSING = f"\n{paper.CLOSING}"
"""The words that are put behind a finished reply to a multiple-choice question."""

_NEGATION = re.compile(
    r"\b(?:not|never|cannot|neither|nor|none|unless|if|whether|wrong|incorrect)\b|n['’]t\b", re.IGNORECASE
)

# --- multiple choice ------------------------------------------------------------------------------------------

_STATEMENT = re.compile(
    r"\b(?:answer|choice|option)\s+is\b|\b(?:correct|right|best|final)\s+(?:answer|choice|option)\s*:|^\W{0,9}answer\s*:|(?=\\boxed\{)",
    re.IGNORECASE | re.MULTILINE,
)
_TOKEN = re.compile(
    r"[\s:*_\"'“‘(\[{$]{0,12}(?:\\(?:boxed|text|mathrm|mathbf)\{){0,2}(?:(?:the )?(?:option|choice|letter|answer)"
    r" )?[*_\"'“‘(\[{]{0,4}"
    r"(?P<token>[A-Z0-9])(?!\w|-\w|['’]\w|[.,/]\d|%)"
)
_WORD = re.compile(r"[ \t]+(?!(?:because|since|as|and|or|but|which|for|due)\b)[a-z]")
_OTHER = re.compile(
    r"[\s*_\"'”’)\]}.]*(?:,|/|&|\band\b|\bor\b)[\s*_\"'“‘(\[{]*(?:option\s+|choice\s+)?([A-Z0-9])\b(?!\s+[a-z])"
)


def two_stage(question: Question, text: str) -> str | None:
    """The letter right behind the last closing words ("So the correct choice is", else any "correct choice is").

    Brackets, quotes, bold marks, a colon and the word "option" may stand between. "A dog" is an article unless choice A
    says "dog".
    """
    for words in (paper.CLOSING, "correct choice is"):
        _, found, tail = text.rpartition(words)
        if found:
            return _letter(question.choices, tail)
    return None


def strict_choice(question: Question, text: str) -> str | None:
    """The one letter that the reply itself states as its answer ("answer is", "best choice:", a box); `None` if it
    states none, or several.

    What follows the appended closing words isn't the reply's own and is left out. Denied and conditional statements
    don't count.
    """
    reply = text.rpartition(CLOSING)[0] if CLOSING in text else text
    stated: set[str] = set()
    for match in _STATEMENT.finditer(reply):
        tail = reply[match.end() :]
        letter = _letter(question.choices, tail)
        if letter is None or _denied(reply[: match.start()]):
            continue
        token = _TOKEN.match(tail)
        other = token and _OTHER.match(tail, token.end())
        stated |= {letter} | ({other[1]} & set(question.choices) if other else set())
    return stated.pop() if len(stated) == 1 else None


def augmented_extract(question: Question, text: str) -> str | None:
    """The paper's main rule, for the letters of the question's own choices (the paper looks for A to E everywhere)."""
    return paper.augmented_extract(text, "".join(question.choices))


def last_letter(question: Question, text: str) -> str | None:
    """The paper's second rule, for the letters of the question's own choices: the last such capital, wherever it
    stands.
    """
    return paper.last_letter(text, "".join(question.choices))


def _letter(choices: Mapping[str, str], tail: str) -> str | None:
    """The choice's letter at the start of `tail`, or `None` where something else stands there."""
    match = _TOKEN.match(tail)
    if match is None or match["token"] not in choices:
        return None
    letter, rest = match["token"], tail[match.end() :]
    # "A dog", "2 kg": an article or an amount, not a letter, unless the choice's own words follow.
    if letter in "AI0123456789" and _WORD.match(rest):
        own = choices[letter].lower()
        return letter if own and rest.strip().lower().startswith(own) else None
    return letter


def _denied(before: str) -> bool:
    """Whether the sentence that `before` breaks off in denies or conditions what follows."""
    return _NEGATION.search(re.split(r"[.!?;\n]", before)[-1]) is not None


# --- numbers --------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"(?:(?<![\w)\]}])[-−])?[$€£]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)")
_MARK = re.compile(r"(?:####|answer is\b)[\s:*]*(?:\$?\\boxed\{)?", re.IGNORECASE)
_MORE = re.compile(
    r"[ \t]*(?:,|\bor\b|\bto\b|\band\b|[-–+*×^=])[ \t]*[$€£]?\d|[ \t]+\d|[.,:]\d|e[+-]?\d", re.IGNORECASE
)
_OVER = re.compile(r"\s*/\s*(\d{1,40})(?![\d.,]*\d)")


def plain(number: str) -> str:
    """A decimal number in one plain form: no currency, no commas, no zeros that say nothing (`"$1,250.50"` ->
    `"1250.5"`), of any length.
    """
    digits = re.sub(r"[$€£,]", "", number.strip().replace("−", "-"))
    whole, _, decimals = digits.lstrip("+-").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    value = f"{whole}.{decimals}" if decimals else whole
    return f"-{value}" if digits.startswith("-") and value != "0" else value


def is_number(text: str) -> bool:
    """Whether the whole text is one decimal number, as "1,234" or "-$5.50"."""
    return _NUMBER.fullmatch(text.strip()) is not None


def last_number(question: Question, text: str) -> str | None:
    """The number behind the last `####` or "answer is", else the last number of all, units and currency aside."""
    marked = [m for mark in _MARK.finditer(text) if (m := _NUMBER.match(text, mark.end()))]
    found = marked or list(_NUMBER.finditer(text))
    return plain(found[-1][0]) if found else None


def strict_number(question: Question, text: str) -> str | None:
    """The one number that the text states behind `####` or "answer is"; `None` if it states none, several, or a
    calculation.
    """
    stated: set[str] = set()
    for mark in _MARK.finditer(text):
        number = _NUMBER.match(text, mark.end())
        if number is None or _denied(text[: mark.start()]):
            continue
        if _MORE.match(text, number.end()):
            return None
        over = _OVER.match(text, number.end())
        value = _quotient(number[0], over[1]) if over else plain(number[0])
        if value is None:
            return None
        stated.add(value)
    return stated.pop() if len(stated) == 1 else None


def math_verify(question: Question, text: str) -> str | None:
    """The number that the package math-verify finds: it knows LaTeX, boxes, fractions and units. A percentage is its
    number (50% is 50).

    Its own time limit needs signals, which only the main thread has, so it is off. Instead nothing is evaluated but
    sums and products of
    numbers: a power, a root or an equation gives `None`.
    """
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that the time limit is off
    import math_verify as package
    from sympy import Basic, nsimplify, preorder_traversal

    try:
        found = package.parse(text.replace("−", "-"), parsing_timeout=None)
        if not found:
            return None
        if is_number(found[-1].rstrip(".")):
            return plain(found[-1].rstrip("."))
        value = found[0]
        if not isinstance(value, Basic) or not all(
            n.is_Number or n.is_Add or n.is_Mul or (n.is_Pow and n.exp == -1) for n in preorder_traversal(value)
        ):
            return None
        exact = nsimplify(value.doit(), rational=True)
        return _quotient(str(exact.p), str(exact.q)) if exact.is_Rational else None
    except Exception:  # whatever a parser of free text stumbles on is no answer
        return None


def _quotient(over: str, under: str) -> str | None:
    """A quotient in plain form: a decimal where it ends within twelve places (`"0.5"`), else a fraction in lowest terms
    (`"-1/3"`).
    """
    if len(over) > 40 or len(under) > 40 or not plain(under).strip("0"):
        return None
    value = Fraction(plain(over)) / Fraction(plain(under))
    scaled, rest = divmod(abs(value) * 10**12, 1)
    if rest:
        return str(value)
    digits = f"{scaled:013d}"
    return plain(f"{'-' if value < 0 else ''}{digits[:-12]}.{digits[-12:]}")


# --- words ----------------------------------------------------------------------------------------------------

_SAID = re.compile(r"\banswer is\b[ \t:]*", re.IGNORECASE)


def said(words: str) -> str:
    """Words as they are compared: lower case, without an article before and without marks around them."""
    return re.sub(r"^(?:the|an?) ", "", " ".join(words.lower().split()).strip(" .,;:!?*_\"'“”‘’()[]"))


def last_said(question: Question, text: str) -> str | None:
    """The words behind the last "answer is", to the end of the sentence or the line."""
    found = list(_SAID.finditer(text))
    return _sentence(text, found[-1].end()) if found else None


def strict_said(question: Question, text: str) -> str | None:
    """The one answer that the text states; `None` if it states none, or several."""
    stated = {_sentence(text, m.end()) for m in _SAID.finditer(text) if not _denied(text[: m.start()])}
    return stated.pop() if len(stated) == 1 else None


def _sentence(text: str, start: int) -> str | None:
    return said(re.split(r"[.!?;](?:\s|$)|\n", text[start : start + 500], maxsplit=1)[0]) or None


# --- the rules by name, the main one first --------------------------------------------------------------------

CHOICE: Mapping[str, Extractor] = {
    "two_stage": two_stage,
    "augmented_extract": augmented_extract,
    "last_letter": last_letter,
    "strict": strict_choice,
}
NUMBER: Mapping[str, Extractor] = {"last_number": last_number, "strict": strict_number, "math_verify": math_verify}
STATED: Mapping[str, Extractor] = {"last_said": last_said, "strict": strict_said}

ANY_CHOICE = Question("", "", "", choices=dict.fromkeys(string.ascii_uppercase + string.digits, ""))
"""A question of any choices, to read a label where the question isn't known."""
