"""Rules that read a number out of a reply.

A number is read where the reply *states* it: after a mark (`####`, "the answer is", a label as in "**Answer:**", a LaTeX box, `<answer>`). A reply without
a mark has no reading; `last_number` is the rule that then takes the last number of all. Numbers come back in one plain form (`plain`), so
that they can be compared as strings. Every rule takes a time that is linear in the length of the reply.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from ..base import Question
from .reply import BOX, END, in_ascii, is_asked, is_denied, own_reply, prepared

# Groups of three digits, or of two before the last three as in India; at most so many that a search stays linear.
_DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,20}(?!,?\d)|\d{1,2}(?:,\d{2}){1,20},\d{3}(?!,?\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+"
_NUMBER = re.compile(rf"(?:(?<![\w)\]}}])-)?[$€£¥]?(?:{_DIGITS})")


def plain(number: str) -> str:
    """A decimal number in one plain form, of any length: no currency, no commas, no zeros that say nothing.

    >>> plain("$1,250.50"), plain("-0"), plain("１８")
    ('1250.5', '0', '18')
    """
    digits = re.sub(r"[$€£¥,]", "", in_ascii(number).strip())
    whole, _, decimals = digits.lstrip("+-").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    value = f"{whole}.{decimals}" if decimals else whole
    return f"-{value}" if digits.startswith("-") and value != "0" else value


def is_number(text: str) -> bool:
    """Whether the whole text is one decimal number.

    >>> is_number("1,234"), is_number("-$5.50"), is_number("12 apples")
    (True, True, False)
    """
    return _NUMBER.fullmatch(in_ascii(text).strip()) is not None


# --- the rules ------------------------------------------------------------------------------------------------


def marked_number(question: Question, text: str) -> str | None:
    r"""The number that the reply states last; `None` if it has no mark, or if what is stated there isn't one number.

    After a mark may stand bold marks, LaTeX, a currency, "about", a unit; a calculation is read by its result. Where words come first ("The answer is that
    she makes $18"), the only number of that line is read. "5 or 6", "3:00" and an unfinished calculation are not read, nor a number that is denied,
    asked, or considered ("if the answer is 5").

    Args:
        question: not looked at; every rule takes one.
        text: the reply.

    >>> marked_number(None, r"**Answer:** \$18 for 9 eggs"), marked_number(None, "She sells 9 eggs.")
    ('18', None)
    """
    denied: set[str | None] = set()
    for statement in _statements_backwards(prepared(text)):
        if not statement.denied:
            return None if statement.value in denied else statement.value
        denied.add(statement.value)
    return None


def strict_number(question: Question, text: str) -> str | None:
    """The one number that the reply states, right after a mark; `None` if it states none, different ones, or something else there.

    >>> strict_number(None, "#### 18"), strict_number(None, "The answer is 5. No, the answer is 6.")
    ('18', None)
    """
    statements = list(_statements_backwards(prepared(text)))
    stated = {None if s.loose else s.value for s in statements if not s.denied}
    return stated.pop() if len(stated) == 1 and not stated & {s.value for s in statements if s.denied} else None


def last_number(question: Question, text: str) -> str | None:
    """The number that `marked_number` reads, and where the reply has no mark at all, its last number: a guess, for comparison.

    >>> last_number(None, "9 eggs make 18 dollars"), last_number(None, "The answer is 18. It took 2 days.")
    ('18', '18')
    """
    reply = prepared(text)
    if any(not statement.denied for statement in _statements_backwards(reply)):
        return marked_number(question, text)
    found = _NUMBER.findall(reply)
    return plain(found[-1]) if found else None


def math_verify(question: Question, text: str) -> str | None:
    r"""The number that the package math-verify finds: it knows LaTeX, boxes, fractions and units. A percentage is its number (50% is 50).

    It has its own fallbacks, so it, too, may take a number that nothing marks. Its time limit needs signals, which only the main thread has, so it is off.
    Instead nothing is evaluated but sums and products of numbers: a power, a root or an equation gives `None`.

    >>> math_verify(None, r"The answer is $\frac{6}{4}$.")
    '1.5'
    """
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that the time limit is off
    import math_verify as package
    from sympy import Basic, nsimplify, preorder_traversal

    try:
        found = package.parse(in_ascii(own_reply(text))[-_LONGEST:], parsing_timeout=None)
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


# --- statements -----------------------------------------------------------------------------------------------

_WINDOW = 400
"""How far a statement reaches, in characters."""
_LONGEST = 10_000
"""How much of a reply's end the package math-verify is given: its time isn't linear."""
_IS = r"(?:is|was|would be|will be|should be|must be|becomes|equals|comes (?:out )?to)\b"
_MARK = re.compile(
    r"^[#*_ \t]{0,8}(?:the[ \t]+)?(?:final[ \t]+)?answer[*_]{0,3}[ \t]{0,3}$"
    r"|(?P<hashes>(?<!#)#{4}(?!#))"
    rf"|\b(?:answer|result|solution)(?:[ \t]+(?:here|then|now|to (?:the|this|your) (?:question|problem)))?[*_`]{{0,3}}(?:,[ \t](?:then|therefore|thus|finally|of course),)?[ \t]+{_IS}"
    r"|\b(?:final|correct|right|my)[ \t]+(?:answer|result)[*_`]{0,3}[ \t]{0,3}[-–](?=[ \t])"
    r"|\b(?:answer|(?:final|correct)[ \t]+result)[*_`]{0,3}[ \t]{0,3}(?:[:=]|->|→|⇒)"
    rf"|{BOX}|(?P<broken>\\(?:boxed|fbox)\b)|<answer>|答案(?:是|为|為|:)",
    re.IGNORECASE | re.MULTILINE,
)
_GAP = r"(?:[\s*_`\"'“”‘’(\[{~≈:=>$" + BOX + r"]|[-–•](?=[ \t])|->|→|⇒)*"
_FILLER = re.compile(
    rf"{_GAP}(?:(?:(?:about|approximately|approx\.?|around|roughly|nearly|almost|exactly|precisely|only|just|simply|therefore|thus|clearly|then|now|indeed|also"
    r"|equal to|given by|an? (?:total|sum|profit|cost|average) of|the (?:number|value|sum|amount)|USD|EUR|GBP|US|Rs\.?|INR|(?P<minus>minus|negative))(?![a-zA-Z])"
    rf"|[a-zA-Z]{{1,12}}[ \t]?=(?![=>])){_GAP}){{0,5}}",
    re.IGNORECASE,
)
_VALUE = re.compile(
    rf"(?P<sign>[-+–])?[$€£¥]?(?P<minus>-)?(?P<number>{_DIGITS})"
    rf"(?:(?P<mixed>[ \t]+\d{{1,9}}/\d{{1,9}}(?![\d/]))|[ \t]{{0,2}}/[ \t]{{0,2}}(?P<under>\d{{1,40}})(?![\d.,/]*\d))?"
)
_CLOSER = r"[ \t*_`\"'”’)\]}$" + END + "]*"
_TIMES = r"times|plus|minus|divided by|multiplied by|over|x"
_UNIT = rf"(?:[ \t]?%|(?:[ \t]*(?!(?:{_TIMES}|and|or|to)\b)[a-zA-Z°]+(?:/[a-z]+|\^\d)?){{0,2}})"
_LINK = re.compile(
    rf"{_CLOSER}(?:\^|{_UNIT}{_CLOSER}(?P<link>=(?!>)|≈|[-+*/×·÷–]|(?:{_TIMES})\b)){_GAP}", re.IGNORECASE
)
_COMPOUND = r"(?:dollars?|euros?|pounds?|hours?|hrs?|minutes?|mins?|days?|weeks?|months?|years?|feet|foot|ft|inch(?:es)?|met(?:er|re)s?|miles?|kilomet(?:er|re)s?|gallons?)"
_MORE = re.compile(
    rf"{_CLOSER}(?:[ \t]*(?:,|\bor\b|\bto\b|\band\b|\bout of\b|[-–])[ \t]*[$€£¥{BOX}]{{0,2}}\d|[ \t]+\d|[.,:]\d|e[+-]?\d|/|[²³⁴-⁹]|k\b)"
    rf"|{_CLOSER}[ -]?(?:hundred|thousand|million|billion|trillion|dozen|hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?)\b"
    rf"|(?:{_CLOSER}[a-z]+)?[ \t](?:more|less|fewer)(?: [a-z]+)?[ \t]than[ \t][$€£¥]?\d"
    rf"|[ \t]{_COMPOUND},?(?: and)? \d",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[.):][ \t]*\S|[ \t]+[A-Z]\w*[ \t]\w|(?:[ \t]+\S+){5}")
_NOT = re.compile(r"[ \t]*not[ \t]+(?:just |only )?")
_UNREADABLE = re.compile(
    rf"{_GAP}(?:an? |the )?(?:zero|one(?! of)|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w{{3,5}}teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|hundred|thousand|million|dozen|half|twice|double|third|quarter|none|unknown|undefined|unclear)\b",
    re.IGNORECASE,
)
_RESULTS = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|makes?|made|earn(?:s|ed)?|gets?|got|pays?|paid|costs?|spends?|spent|needs?|takes?|took|saves?|saved|sells?|sold|buys?|bought"
    r"|eats?|ate|owes?|weighs?|left|scores?|scored|runs?|ran|drives?|drove|reads?|uses?|used|receives?|received|total(?:s|ed)?|in total|altogether)"
    rf"[ \t]+{_FILLER.pattern}$",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:not|never|cannot|no|unclear|unknown|depends|if|unless|whether|between|either|or|than|least|most|times|plus|minus|divided|multiplied|half|twice|double"
    r"|triple|dozen|one|two|three|four|five|six|seven|eight|nine|ten|twelve|hundred|thousand|correct|wrong|incorrect|right)\b|n['’]t\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Statement:
    """What stands after a mark: a value, or `None` where something was stated that isn't one number."""

    value: str | None
    denied: bool = False
    loose: bool = False
    """Whether words stand between the mark and the number."""


def _statements_backwards(text: str) -> Iterator[_Statement]:
    """The statements of a prepared reply, the last one first. A mark that no number follows states nothing: it is left
    out.
    """
    for mark in reversed(list(_MARK.finditer(text))):
        if mark["broken"]:
            yield _Statement(None)
            continue
        statement = _number_at_start(text[mark.end() : mark.end() + _WINDOW], is_heading=mark["hashes"] is not None)
        if statement is not None:
            considered = is_denied(text, mark.start()) or is_asked(text, mark.end())
            yield replace(statement, denied=True) if considered else statement


@lru_cache(maxsize=256)  # a reply in a loop states the same again and again
def _number_at_start(text: str, is_heading: bool) -> _Statement | None:
    """What is stated at the start of a text after a mark, or `None` if that is nothing like a number."""
    opening = _FILLER.match(text)
    first = _VALUE.match(text, opening.end() if opening else 0)
    if first is None:
        if is_heading:
            return None
        if denial := _NOT.match(text):
            value = _VALUE.match(text, denial.end())
            return _Statement(_value_of(value), denied=True) if value else None
        return _Statement(None) if _UNREADABLE.match(text) else _only_number(text)
    if is_heading and ("\n" in text[: first.start()] or _HEADING.match(text.partition("\n")[0], first.end())):
        return None
    return _Statement(_result(text, first, negative=bool(opening and opening["minus"])))


def _result(text: str, first: re.Match[str], negative: bool) -> str | None:
    """The value of a number or a calculation that begins with `first`; `None` for a range, a list, a time, or a calculation without a result."""
    sides: list[str | None] = [_value_of(first, negative)]
    end = first.end()
    while link := _LINK.match(text, end):
        value = _VALUE.match(text, link.end())
        if value is None:
            break
        if link["link"] in ("=", "≈"):
            sides.append(_value_of(value))
        else:
            sides[-1] = None
        end = value.end()
    if _MORE.match(text, end) or end >= _WINDOW - 1:
        return None
    return sides[-1] if sides[-1] is not None or len(sides) == 1 else sides[0]


def _value_of(match: re.Match[str], negative: bool = False) -> str | None:
    negative ^= match["sign"] in ("-", "–") or match["minus"] is not None
    sign = "-" if negative else ""
    if match["mixed"]:
        over, under = match["mixed"].strip().split("/")
        if not match["number"].isdigit() or not 0 < int(over) < int(under):
            return None
        return _quotient(f"{sign}{int(match['number']) * int(under) + int(over)}", under)
    if match["under"]:
        return _quotient(sign + match["number"], match["under"])
    return plain(sign + match["number"])


def _only_number(text: str) -> _Statement | None:
    """The only number of a line that states it by a verb ("that she makes $18 a day"), unless another word there casts doubt on it."""
    line = text.lstrip().partition("\n")[0]
    numbers = list(_NUMBER.finditer(line))
    if (
        len({plain(number[0]) for number in numbers}) != 1
        or _DOUBT.search(line)
        or not _RESULTS.search(line[: numbers[0].start()])
    ):
        return None
    first = _VALUE.match(line, numbers[0].start())
    return _Statement(_result(line, first, negative=False) if first else None, loose=True)


def _quotient(over: str, under: str) -> str | None:
    """A quotient in plain form: a decimal where it ends within twelve places (`"0.5"`), else a fraction in lowest terms (`"-1/3"`)."""
    if len(over) > 40 or len(under) > 40 or not plain(under).strip("0"):
        return None
    value = Fraction(plain(over)) / Fraction(plain(under))
    scaled, rest = divmod(abs(value) * 10**12, 1)
    if rest:
        return str(value)
    digits = f"{scaled:013d}"
    return plain(f"{'-' if value < 0 else ''}{digits[:-12]}.{digits[-12:]}")
