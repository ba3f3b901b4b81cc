"""The former style detector, which looked at a reply's opening only.

What it said of the bundled models' replies stands in the outputs of chapters and figures, so the detectors must say the
same of them.
"""

from __future__ import annotations

import re

from kvsteer_lab.tasks.thoughts import after_thoughts

_ROLE = r"premise|given|fact|inference|deduction|conclusion|observation|assumption|rule|evidence"
_OPENINGS = {
    "stepwise": r"step\s*(1|one|a)\b|\(1\)|1[.)]\s|first step\b",
    "strategy_execution": r"(strategy|plan|approach)\s*:",
    "annotated_deduction": rf"\[({_ROLE})",
    "causal_chain": r"(if|because|since)\b",
    "analogical": r"(just like|just as|this is similar to|similar to|think of|imagine)\b",
}
_STEP_LINE = re.compile(r"^[^\S\n]*step\s*(\d+)", re.IGNORECASE | re.MULTILINE)
_ORDINAL = re.compile(r"first(ly)?,.*?[.!:]\s+(second(ly)?|next|then|finally)\b", re.IGNORECASE | re.DOTALL)
_SAYS_ANSWER = re.compile(r"\b(answer|choice|option)( is\b|:)", re.IGNORECASE)
_OPENS_WITH_ANSWER = re.compile(
    r"((so|hence|clearly|therefore|thus)?,?\s*(the )?(correct )?(answer|choice|option)( is\b|:)"
    r"|\(?[A-H]([).:]|$)|[-$]?\d+\W*$)",
    re.IGNORECASE,
)


def style_by_opening(text: str) -> str:
    """The style that the former rules gave a reply."""
    text = after_thoughts(text).strip()
    words = re.findall(r"\w+", text.lower())
    if len(words) >= 40 and len(set(words)) < 0.12 * len(words):
        return "other"
    for style, opening in _OPENINGS.items():
        if re.match(opening, text, re.IGNORECASE):
            return style
    if len(set(_STEP_LINE.findall(text))) > 1 or _ORDINAL.match(text):
        return "stepwise"
    n = len(text.split())
    if n <= 25 and _OPENS_WITH_ANSWER.match(text):
        return "direct"
    return "direct" if n <= 12 and _SAYS_ANSWER.search(text) else "other"
