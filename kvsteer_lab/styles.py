"""The five reasoning styles of cache steering's style-transfer experiment, and detectors for them.

A detector looks at the form of a text, not at whether its reasoning is any good: at how it opens, and at how often
the style's own phrases come back. A text that only repeats its opening has no style.
"""

from __future__ import annotations

import re

STYLES = ("direct", "strategy_execution", "stepwise", "causal_chain", "annotated_deduction", "analogical")
"""Every style that a reply of the bundled tasks can have: answering directly, and five ways to reason."""

REASONING_STYLES = STYLES[1:]

_OPENINGS = {
    "stepwise": r"(step\s*(1|one|a)\b|\(1\)|1[.)]\s|first step\b)",
    "strategy_execution": r"(strategy|plan|approach)\s*:",
    "annotated_deduction": r"\[(premise|given|fact|inference|deduction|conclusion|observation|assumption|rule|evidence)",
    "causal_chain": r"(if|because|since)\b",
    "analogical": r"(just like|just as|this is similar to|similar to|think of|imagine|as when)\b",
}
_DIRECT = re.compile(
    r"((so|hence|clearly|therefore|thus)?,?\s*(the )?(correct )?(answer|choice|option)( is)?\b[:\s]*|\(?[A-H]\b[).:]?|[-$]?\d)",
    re.IGNORECASE,
)
_SHORT = 12


def detect_style(text: str) -> str:
    """The style of a reply: one of `STYLES`, or `"other"`."""
    text = text.strip()
    if _is_loop(text):
        return "other"
    for style, opening in _OPENINGS.items():
        if re.match(opening, text, re.IGNORECASE):
            return style
    words = text.split()
    if words and len(words) <= _SHORT and _DIRECT.match(text):
        return "direct"
    return "other"


def is_reasoned(text: str) -> bool:
    """Whether the reply has one of the five reasoning styles."""
    return detect_style(text) in REASONING_STYLES


def _is_loop(text: str) -> bool:
    words = re.findall(r"\w+", text.lower())
    return len(words) >= 40 and len(set(words)) < 0.12 * len(words)
