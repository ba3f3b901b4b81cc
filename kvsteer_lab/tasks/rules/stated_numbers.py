"""The numbers that a reply states: what stands after a mark, and whether it is one number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from .decimals import DIGITS, NUMBER, plain, quotient
from .reply import BOX, END, is_asked, is_denied

_WINDOW = 400
"""How far a statement reaches, in characters."""
_IS = r"(?:is|was|would be|will be|should be|must be|becomes|equals|comes (?:out )?to)\b"
_MARK = re.compile(
    r"^[#*_ \t]{0,8}(?:the[ \t]+)?(?:final[ \t]+)?answer[*_]{0,3}[ \t]{0,3}$"
    r"|(?P<hashes>(?<!#)#{4}(?!#))"
    r"|\b(?:answer|result|solution)(?:[ \t]+(?:here|then|now|to (?:the|this|your) (?:question|problem)))?[*_`]{0,3}"
    rf"(?:,[ \t](?:then|therefore|thus|finally|of course),)?[ \t]+{_IS}"
    r"|\b(?:final|correct|right|my)[ \t]+(?:answer|result)[*_`]{0,3}[ \t]{0,3}[-–](?=[ \t])"
    r"|\b(?:answer|(?:final|correct)[ \t]+result)[*_`]{0,3}[ \t]{0,3}(?:[:=]|->|→|⇒)"
    rf"|{BOX}|(?P<broken>\\(?:boxed|fbox)\b)|<answer>|答案(?:是|为|為|:)",
    re.IGNORECASE | re.MULTILINE,
)
_GAP = r"(?:[\s*_`\"'“”‘’(\[{~≈:=>$" + BOX + r"]|[-–•](?=[ \t])|->|→|⇒)*"
_FILLER = re.compile(
    rf"{_GAP}(?:(?:(?:about|approximately|approx\.?|around|roughly|nearly|almost|exactly|precisely|only|just|simply"
    r"|therefore|thus|clearly|then|now|indeed|also|equal to|given by|an? (?:total|sum|profit|cost|average) of"
    r"|the (?:number|value|sum|amount)|USD|EUR|GBP|US|Rs\.?|INR|(?P<word>minus|negative))(?![a-zA-Z])"
    rf"|[a-zA-Z]{{1,12}}[ \t]?=(?![=>])){_GAP}){{0,5}}",
    re.IGNORECASE,
)
_VALUE = re.compile(
    rf"(?P<sign>[-+–])?[$€£¥]?(?P<minus>-)?(?P<number>{DIGITS})"
    rf"(?:(?P<mixed>[ \t]+\d{{1,9}}/\d{{1,9}}(?![\d/]))|[ \t]{{0,2}}/[ \t]{{0,2}}(?P<under>\d{{1,40}})(?![\d.,/]*\d))?"
)
_CLOSER = r"[ \t*_`\"'”’)\]}$" + END + "]*"
_TIMES = r"times|plus|minus|divided by|multiplied by|over|x"
_UNIT = rf"(?:[ \t]?%|(?:[ \t]*(?!(?:{_TIMES}|and|or|to|of)\b)[a-zA-Z°]+(?:/[a-z]+|\^\d)?){{0,4}})"
_LINK = re.compile(
    rf"{_CLOSER}(?:\^|{_UNIT}{_CLOSER}(?P<link>=(?!>)|≈|[-+*/×·÷–]|(?:{_TIMES})\b"
    rf"|of(?=[ \t][$€£¥]?[\d.,]+{_UNIT}[ \t]*=))){_GAP}",
    re.IGNORECASE,
)
_COMPOUND = (
    r"(?:dollars?|euros?|pounds?|hours?|hrs?|minutes?|mins?|days?|weeks?|months?|years?|feet|foot|ft|inch(?:es)?"
    r"|met(?:er|re)s?|miles?|kilomet(?:er|re)s?|gallons?)"
)
"""Units that are followed by a smaller one, as in "2 hours and 15 minutes"."""
_MORE = re.compile(
    rf"{_CLOSER}(?:[ \t]*(?:,|\bor\b|\bto\b|\band\b|\bout of\b|[-–])[ \t]*[$€£¥{BOX}]{{0,2}}\d"
    r"|[ \t]+\d|[.,:]\d|(?<=[\d)])\(\d|e[+-]?\d|/(?![a-z]{2})|['′]\d|[²³⁴-⁹]|k\b"
    r"|[ -]?(?:hundred|thousand|million|billion|trillion|dozen|hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?)\b)"
    rf"|(?:{_CLOSER}[a-z]+)?[ \t](?:more|less|fewer)(?: [a-z]+)?[ \t]than[ \t][$€£¥]?\d"
    rf"|[ \t]{_COMPOUND},?(?: and)? \d",
    re.IGNORECASE,
)
"""What makes a stated number something else: a range, a list, a time, an exponent, a multiple of it."""
_HEADING = re.compile(r"[.):][ \t]*\S|[ \t]+[A-Z]\w*[ \t]\w|(?:[ \t]+\S+){5}")
_ALONE = re.compile(rf"{_FILLER.pattern}{_VALUE.pattern}{_CLOSER}{_UNIT}{_CLOSER}[.!]?{_CLOSER}", re.IGNORECASE)
_NOT = re.compile(r"[ \t]*not[ \t]+(?:just |only )?")
_UNREADABLE = re.compile(
    rf"{_GAP}(?:an? |the )?(?:zero|one(?! of)|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    r"|\w{3,5}teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|hundred|thousand|million|dozen|half|twice|double|third|quarter|none|unknown|undefined|unclear)\b",
    re.IGNORECASE,
)
_RESULTS = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|makes?|made|earn(?:s|ed)?|gets?|got|pays?|paid|costs?|spends?|spent|needs?"
    r"|takes?|took|saves?|saved|sells?|sold|buys?|bought|eats?|ate|owes?|weighs?|left|scores?|scored|runs?|ran|drives?"
    r"|drove|reads?|uses?|used|receives?|received|total(?:s|ed)?|in total|altogether)"
    rf"[ \t]+{_FILLER.pattern}$",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:not|never|cannot|no|unclear|unknown|depends|if|unless|whether|between|either|or|than|least|most|times|plus"
    r"|minus|divided|multiplied|half|twice|double|triple|dozen|one|two|three|four|five|six|seven|eight|nine|ten|twelve"
    r"|hundred|thousand|correct|wrong|incorrect|right)\b|n['’]t\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Statement:
    """What stands after a mark: a value, or `None` where something was stated that isn't one number."""

    value: str | None
    denied: bool = False
    loose: bool = False
    """Whether words stand between the mark and the number."""


def statements_backwards(text: str) -> Iterator[Statement]:
    """The statements of a prepared reply, the last one first. A mark that no number follows states nothing: it is left
    out. A reply that is nothing but a number states that.
    """
    marks = list(_MARK.finditer(text))
    if not marks and len(text) < _WINDOW and (alone := _ALONE.fullmatch(text.strip())):
        yield _number_at_start(alone[0], is_heading=False) or Statement(None)
    for mark in reversed(marks):
        if mark["broken"]:
            yield Statement(None)
            continue
        statement = _number_at_start(text[mark.end() : mark.end() + _WINDOW], is_heading=mark["hashes"] is not None)
        if statement is not None:
            considered = is_denied(text, mark.start()) or is_asked(text, mark.end())
            yield replace(statement, denied=True) if considered else statement


@lru_cache(maxsize=256)  # a reply in a loop states the same again and again
def _number_at_start(text: str, is_heading: bool) -> Statement | None:
    """What is stated at the start of a text after a mark, or `None` if that is nothing like a number."""
    opening = _FILLER.match(text)
    first = _VALUE.match(text, opening.end() if opening else 0)
    if first is None:
        if is_heading:
            return None
        if denial := _NOT.match(text):
            value = _VALUE.match(text, denial.end())
            return Statement(_value_of(value), denied=True) if value else None
        return Statement(None) if _UNREADABLE.match(text) else _only_number(text)
    if is_heading and ("\n" in text[: first.start()] or _HEADING.match(text.partition("\n")[0], first.end())):
        return None
    return Statement(_result(text, first, negative=bool(opening and opening["word"])))


def _result(text: str, first: re.Match[str], negative: bool) -> str | None:
    """The value of a number or a calculation that begins with `first`; `None` for a range, a list, a time, or a
    calculation without a result.
    """
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
        return quotient(f"{sign}{int(match['number']) * int(under) + int(over)}", under)
    if match["under"]:
        return quotient(sign + match["number"], match["under"])
    return plain(sign + match["number"])


def _only_number(text: str) -> Statement | None:
    """The only number of a line that states it by a verb ("that she makes $18 a day"), unless another word there casts
    doubt on it.
    """
    line = text.lstrip().partition("\n")[0]
    numbers = list(NUMBER.finditer(line))
    if (
        len({plain(number[0]) for number in numbers}) != 1
        or _DOUBT.search(line)
        or not _RESULTS.search(line[: numbers[0].start()])
    ):
        return None
    first = _VALUE.match(line, numbers[0].start())
    return Statement(_result(line, first, negative=False) if first else None, loose=True)
