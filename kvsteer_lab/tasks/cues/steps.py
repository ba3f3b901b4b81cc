"""The cues of reasoning that is laid out in parts: steps, commented items, sequencing words, computed lines."""

from __future__ import annotations

import re

from .causes import CONDITION
from .layout import BULLET, Layout, in_words, letter_of

_STEP = re.compile(r"(?:[-•] )?(?:\d{1,2}[.)] )?(?:the )?step ?(\d{1,2}|one|two|three|a\b)", re.IGNORECASE)
_OPENS_STEP = re.compile(r"step ?(?:1|one|a)\b|\(1\)|first step\b", re.IGNORECASE)
_FIRST = re.compile(
    r"(?:so,? |let's (?:start|begin) )?(?:first(?:ly)?(?: of all)?|to (?:begin|start)|(?:start|begin) (?:by|with)"
    r"|the first (?:step|thing)|step one|at first"
    r"|(?:let's|we|i|i'll|we'll) (?:need to |can |will |must |should )?first)\b",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"(?:and )?(second(?:ly)?|third(?:ly)?|fourth(?:ly)?|next|then|now|after (?:that|this)|afterwards|finally|lastly"
    r"|the (?:second|next|third|final|last) step)\b",
    re.IGNORECASE,
)
_THEN = re.compile(r"[,;] (?:and )?(then|next|finally|lastly)\b", re.IGNORECASE)
_ANNOUNCES = re.compile(
    r"step[- ]by[- ]step|\b(?:let's|let us|we can|i'll|i will) (?:\w{1,9} )?"
    r"(?:break|analy[sz]e|evaluate|examine|consider|compare|go through|look at)"
    r"|\b(?:following|these|the|here are|several|few|\d) steps\b|\bhere's (?:how|what)\b",
    re.IGNORECASE,
)
_CHOICE = re.compile(
    r"(?:and |while |but |however, )?(?:option|choice|answer)s? \(?([A-H])\)?(?: ?[\"(]| [a-z]|, )", re.IGNORECASE
)
_BARE_CHOICE = re.compile(
    r"(?:and |while |but |however, )?\(?([B-H])\)? (?:is|isn't|can|could|would|does|may|refers)\b"
)
_QUOTED = re.compile(
    r"[\"“][^\"”]{1,60}[\"”] (?:is|isn't|are|can|could|would|does|may|refers|implies|suggests|means)\b"
)
_JUDGES = re.compile(
    r"\b(?:is|are|was|were|isn't|aren't|can|can't|cannot|could|would|does|doesn't|do|don't|may|might|will|won't|has|have"
    r"|had|refers?|involves?|suggests?|means?|implies|provides?|requires?|not)\b",
    re.IGNORECASE,
)
_POINTS = re.compile(r"(?:this|it|that)\b", re.IGNORECASE)
_PARALLEL = re.compile(r"an? (?:[\w'-]{1,20} ){1,5}(?:is|are|can|would|may|has)\b", re.IGNORECASE)
_COMMENT = re.compile(r"(?: [-–—] |: |[.;] )(?P<said>.*)")
_COMPUTED = re.compile(
    r"(?:[-+*/×÷–−xX]|\\(?:times|div|cdot)|\b(?:plus|minus|times|divided by|multiplied by)|\()[ ({]{0,3}[$£€]?\.?\d"
    r"[^=\n]{0,70}?(?:=|\b(?:is|equals|makes|gives|leaves)\b)[^=\d\n]{0,14}\d"
)
_INLINE_ITEM = re.compile(r"(?:^|[.:;] )\(?([1-9])[.)] (?=[A-Z])")
_OF_UNITS = re.compile(r"= ?[$£€]?\d[\d.,]{0,12} (?!then\b)[^\W\d_]{3,}", re.IGNORECASE)
_EQUATION = re.compile(r"\S ?= ?[(-]?[$£€]?\.?\d")
_WORD = re.compile(r"[^\W\d_]{2,}")
_ITEM_WORDS, _SAID_WORDS, _CLAUSE_WORDS, _COMMENT_WORDS = 4, 3, 5, 6


def step_cues(layout: Layout) -> int:
    """Parts of a reasoning that is laid out in order: steps, items with a comment, sequencing words, computed lines.

    Returns:
        Two or more if there are two parts, or a first part that was announced.

    >>> step_cues(Layout.of("- A: oven - it is hot.\\n- B: fridge - it is cold."))
    2
    >>> step_cues(Layout.of("A: oven\\nB: fridge"))
    0
    """
    steps = {match[1].lower() for line in layout.lines if (match := _STEP.match(line))}
    opens = bool(layout.lines and _OPENS_STEP.match(layout.text))
    order = _sequenced(layout)
    items = len(_items(layout.lines))
    inline = max((len(set(_INLINE_ITEM.findall(line))) for line in layout.lines), default=0)
    choices = len({match[1].upper() for part in layout.sentences if (match := _CHOICE.match(part))})
    choices = max(choices, len({m[1] for part in layout.sentences if (m := _BARE_CHOICE.match(part))}))
    quoted = sum(bool(_QUOTED.match(line)) for line in layout.lines)
    parallel = sum(bool(_PARALLEL.match(line)) for line in layout.lines) // 2
    parts = max(len(steps), order, items, inline, choices, quoted, parallel, _computed(layout))
    announced = any(_ANNOUNCES.search(part) for part in layout.sentences)
    return 2 if opens or parts >= 2 else parts + (announced and parts > 0)


def _computed(layout: Layout) -> int:
    """Lines that compute or equate; or sentences that compute in words, unless a condition opens the reply."""
    whole = [line for line in layout.lines if line[0] not in "=["]  # others go on from the line before, or have a role
    lines = {line for line in whole if _COMPUTED.search(line) or _EQUATION.search(line)}
    told = () if CONDITION.match(layout.text) else layout.sentences
    sentences = {
        part
        for part in told
        if _COMPUTED.search(part) and (in_words(part, _CLAUSE_WORDS) or (in_words(part) and _OF_UNITS.search(part)))
    }
    return max(len(lines), len(sentences))


def _items(lines: tuple[str, ...]) -> set[str]:
    """The items of lists that say something: numbered or with a bullet, or lettered with a comment on the choice."""
    found = set()
    for place, line in enumerate(lines):
        head = letter_of(line)
        after = lines[place + 1] if place + 1 < len(lines) else ""
        if head:
            rest = line[head.end() :]
            comment = _COMMENT.search(rest)
            said = bool(comment and len(_WORD.findall(comment["said"])) >= _SAID_WORDS and _JUDGES.search(rest))
            long = len(_WORD.findall(after)) >= _COMMENT_WORDS and _JUDGES.search(after)
            if said or (not letter_of(after) and (long or _POINTS.match(after))):
                found.add(line)
        elif (head := BULLET.match(line)) and (
            len(_WORD.findall(line)) >= _ITEM_WORDS or _COMPUTED.search(line[head.end() :])
        ):
            found.add(line)
    return found


def _sequenced(layout: Layout) -> int:
    """Distinct sequencing words: a first one, and later ones at the opening of a sentence."""
    first = any(_FIRST.match(part) for part in layout.sentences)
    later = {match[1].lower() for part in layout.sentences if (match := _LATER.match(part))}
    if first:
        later |= {match.lower() for part in layout.sentences for match in _THEN.findall(part)}
    return first + len(later)
