"""The cues that name a style: the roles of statements, a strategy, an analogy."""

from __future__ import annotations

import re

from .layout import Layout, in_words, without_bullet

_ROLE = r"premise|given|fact|inference|deduction|conclusion|observation|assumption|rule|evidence"
_BRACKET = re.compile(rf"\[({_ROLE})", re.IGNORECASE)
_LABEL = re.compile(rf"\[?({_ROLE})s?(?: \d{{1,2}})?\]?:", re.IGNORECASE)


def role_cues(layout: Layout) -> int:
    """Statements that carry the name of their logical role; the first one in brackets is enough.

    >>> role_cues(Layout.of("Premise: it rains.\\nConclusion: the ground is wet."))
    2
    """
    opens = bool(_LABEL.match(layout.text))  # within lines labels count only in a reply that opens with one
    told = dict.fromkeys(layout.sentences if opens else map(without_bullet, layout.lines))
    labels = [match[1].lower() for part in told if (match := _BRACKET.match(part) or _LABEL.match(part))]
    named = len(labels) if set(labels) - {"conclusion"} else 0
    return max(named, 2 * bool(_BRACKET.match(layout.text)))


_PLAN = re.compile(r"(?:(?:my|our|the|problem[- ]solving|general) )?(?:strategy|plan|approach)\b(?: (\d|one)\b)?", re.I)
_NAMES_PLAN = re.compile(
    r"\b(?:my|our|the|a|this|following) (?:(?:best|simple|same|following|general) )?(?:strategy|plan|approach)"
    r"(?: (?:is|will be|would be|here is)\b|:)",
    re.IGNORECASE,
)
_CARRIES_OUT = re.compile(
    r"(?:solution|execution|working|implementation|carrying (?:it|this) out)\b ?:?", re.IGNORECASE
)
_OPENING_LINES = 3


def strategy_cues(layout: Layout) -> int:
    """A heading or sentence at the opening that names the approach; a heading said over and over is none.

    >>> strategy_cues(Layout.of("**Strategy:** compare the options.\\n**Solution:** A is larger."))
    3
    """
    opening = [
        line for place, line in enumerate(layout.lines[:_OPENING_LINES]) if place == 0 or in_words(layout.lines[0])
    ]
    headed = any(
        (match := _PLAN.match(line)) and (line[match.end() :].lstrip()[:1] == ":" or match.end() == len(line))
        for line in opening
    )
    first = layout.sentences[0] if layout.sentences else ""
    named = bool(_NAMES_PLAN.search(first))
    carried = any(_CARRIES_OUT.fullmatch(part) for part in layout.sentences)
    repeated = sum(bool(_PLAN.match(line)) for line in layout.lines) > _OPENING_LINES
    return 0 if repeated else 2 * headed + 2 * named + ((headed or named) and carried)


_ANALOGY_OPENING = re.compile(
    r"(?:just like|just as|this is (?:similar to|like)|similar to|think of|imagine|picture|consider an analogy"
    r"|let's use an analogy|it'?s (?:just )?like)\b",
    re.IGNORECASE,
)
_ANALOGY = re.compile(
    r"\b(?:just like|just as|think of (?:it|this|them) as|by analogy|analog(?:y|ous)|imagine"
    r"|is (?:a bit |much |just )?like (?:a|an|the|when|having)\b)",
    re.IGNORECASE,
)
_CARRIED_OVER = re.compile(r"(?:similarly|likewise|in the same way)\b", re.IGNORECASE)


def analogy_cues(layout: Layout) -> int:
    """Words that set another case beside the problem; one that opens the reply is enough.

    >>> analogy_cues(Layout.of("Just like a pot on a stove, the lake warms."))
    2
    """
    opens = bool(layout.lines and _ANALOGY_OPENING.match(layout.text))
    named = {match.lower() for part in layout.sentences if in_words(part) for match in _ANALOGY.findall(part)}
    carried = any(_CARRIED_OVER.match(part) for part in layout.sentences if in_words(part))
    return 2 * opens + len(named) * (not opens) + (carried and bool(named) and not opens)
