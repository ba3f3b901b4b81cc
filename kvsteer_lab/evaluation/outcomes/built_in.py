"""The built-in outcomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from ...stats.texts import is_loop
from ...tasks.base import Question
from ...tasks.styles import detect_style
from .outcome import SHARE, Outcome, Reply

_LEADS = r"(?:(?:so|therefore|thus|hence|consequently|finally),? )?(?:the |my |our )?"
_STATES = re.compile(
    rf"\b{_LEADS}(?:(?:correct|right|best|final|most likely) )?(?:answer|choice|option)\b(?: \w+){{0,2}}? ?(?:is\b|:|=)"
    r"|\banswer\b\W{0,3}:|####|\\boxed\b",
    re.IGNORECASE,
)
_OPENS_WITH_CHOICE = re.compile(r"\W{0,3}(?:[A-H]\b(?=[).:,*\n]|$)|[-$]?\d[\d.,]*\W*$)")
_OTHER_CHOICE = re.compile(r"\n\W{0,3}[A-H][):.]")  # a list of choices, said over again, answers nothing
_CONNECTIVE = re.compile(
    r"\b(?:because|therefore|thus|hence|consequently|accordingly|as a result|it follows|(?:this|that|which|it) means"
    r"|implies|implying)\b"
    r"|\bsince\b(?! (?:then|\d{4}|last|the beginning))"
    r"|(?:^|[.!?:;,\n]\W{0,3}|\band )so\b(?!,? (?:that|much|many|far|long|on|called)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSES = re.compile(
    r"\b(?:so|therefore|thus|hence|consequently),? (?:the |my )?(?:\w{1,12} ){0,3}(?:answer|choice|option)\b",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?:^|[.!?:]\s)[^\S\n]*[#*_>\s-]{0,6}(?:step\s*)?\(?(\d{1,2})[.):](?=[\s*])", re.I | re.M)
_ORDINALS = (r"first(?:ly)?", r"second(?:ly)?|next|then")
_ORDINAL = tuple(re.compile(rf"(?:^|[.!?:]\s+)[*_\s]*(?:{words})\b,?", re.I | re.M) for words in _ORDINALS)


def words_before_answer(question: Question, reply: Reply) -> float | None:
    """Words before the first phrase that states an answer ("The answer is", "Answer:", "####"); 0 where the reply opens
    with a choice's label or is a number; `None` where no such phrase is there.

    >>> words_before_answer(None, Reply("Two and two make four. The answer is 4."))
    5
    """
    found = _STATES.search(reply)
    if _OPENS_WITH_CHOICE.match(reply) and not _OTHER_CHOICE.search(reply):
        return 0
    return None if found is None else sum(any(map(str.isalnum, word)) for word in reply[: found.start()].split())


def connectives(question: Question, reply: Reply) -> int:
    """Words that infer: because, since, so, therefore, thus, hence, consequently, as a result, which means; those that
    only introduce the answer ("So the answer is") are not counted, nor is "so" or "since" in other meanings.

    >>> connectives(None, Reply("It rains, so the ground is wet because of it. So the answer is B."))
    2
    """
    return len(_CONNECTIVE.findall(_CLOSES.sub("", reply)))


def connective_rate(question: Question, reply: Reply) -> float | None:
    """`connectives` in a hundred words, for replies of different length; `None` for an empty reply.

    >>> connective_rate(None, Reply("It rains, so the ground is wet."))
    14.285714285714286
    """
    words = len(reply.split())
    return 100 * connectives(question, reply) / words if words else None


def enumerates(question: Question, reply: Reply) -> bool:
    """Whether the reply counts its parts: items 1 and 2 ("1.", "2)", "Step 1:"), or "First ... then".

    >>> enumerates(None, Reply("1. Add two.\\n2. Add three.")), enumerates(None, Reply("The answer is 2."))
    (True, False)
    """
    numbers = {int(n) for n in _NUMBERED.findall(reply)}
    first = _ORDINAL[0].search(reply)
    return {1, 2} <= numbers or (first is not None and _ORDINAL[1].search(reply, first.end()) is not None)


def _answered(question: Question, reply: Reply) -> bool:
    read = reply.columns["read_answer"]
    return isinstance(read, str) and not bool(reply.columns["choice_forced"])


BUILT_IN: Mapping[str, Outcome] = MappingProxyType(
    {
        outcome.name: outcome
        for outcome in (
            Outcome("accuracy", lambda q, r: r.columns["correct"], SHARE, "the main rule reads the gold answer"),
            Outcome("reasoned", lambda q, r: r.columns["reasoned"], SHARE, "a reasoning style is detected"),
            Outcome("tokens", lambda q, r: r.tokens, "tokens", "length in tokens", is_length=True),
            Outcome("words", lambda q, r: len(r.split()), "words", "length in words", is_length=True),
            Outcome(
                "words before answer", words_before_answer, "words", "words before the first statement of an answer"
            ),
            Outcome("direct", lambda q, r: detect_style(r) == "direct", SHARE, "the reply only answers"),
            Outcome("connectives", connectives, "per reply", "because, since, so, therefore, thus, hence and the like"),
            Outcome("connective rate", connective_rate, "per 100 words", "connectives in a hundred words"),
            Outcome("enumeration", enumerates, SHARE, "the reply numbers its parts"),
            Outcome("answered", _answered, SHARE, "the main rule reads an answer"),
            Outcome("loop", lambda q, r: is_loop(r), SHARE, "the reply ends in a loop"),
            Outcome("cut", lambda q, r: r.cut, SHARE, "the reply was cut at max_new_tokens"),
            Outcome(
                "kl",
                lambda q, r: r.columns.get("kl"),
                "nats",
                "KL from the baseline over its reply's first tokens, where measured",
            ),
        )
    }
)
"""The built-in outcomes by name."""
