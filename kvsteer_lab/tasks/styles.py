"""The five reasoning styles of cache steering's style-transfer experiment, and detectors for them.

A detector looks at the form of a text and not at whether its reasoning is right: at how the text opens, and at whether
it goes on in ordered steps. Brackets count as annotated deduction only where they name the role of a statement
("[Premise]"), and a text that does little but repeat itself has no style.
"""

from __future__ import annotations

import re

from .thoughts import after_thoughts

__all__ = ["REASONING_STYLES", "STYLES", "detect_style", "is_reasoned"]

STYLES = ("direct", "strategy_execution", "stepwise", "causal_chain", "annotated_deduction", "analogical")
"""Every style that a reply of the bundled tasks can have: answering directly, and five ways to reason."""

REASONING_STYLES = STYLES[1:]
"""The five ways to reason: every style but `"direct"`."""

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
_SHORT, _VERY_SHORT = 25, 12
_LOOP_WORDS, _LOOP_SHARE = 40, 0.12


def detect_style(text: str) -> str:
    """The style of a reply, told by its form; of a thinking model's reply, that of what follows its thoughts.

    `tests/fixtures/style_labels_*.json` holds replies that were labelled by hand; the detector errs in 1 of 100 of the
    bundled model's and in 9 of 150 of the paper's released ones.

    Args:
        text: a reply.

    Returns:
        One of `STYLES`, or `"other"`.

    >>> detect_style("Step 1: 2 + 2 = 4. The answer is 4."), detect_style("The answer is 4.")
    ('stepwise', 'direct')
    >>> detect_style("<think>Step 1: 2 + 2 = 4.</think>The answer is 4.")
    'direct'
    """
    text = after_thoughts(text).strip()
    if _is_loop(text):
        return "other"
    for style, opening in _OPENINGS.items():
        if re.match(opening, text, re.IGNORECASE):
            return style
    if len(set(_STEP_LINE.findall(text))) > 1 or _ORDINAL.match(text):
        return "stepwise"
    words = len(text.split())
    if words <= _SHORT and _OPENS_WITH_ANSWER.match(text):
        return "direct"
    return "direct" if words <= _VERY_SHORT and _SAYS_ANSWER.search(text) else "other"


def is_reasoned(text: str) -> bool:
    """Whether the reply has one of the five reasoning styles.

    >>> is_reasoned("If it rains then the ground is wet."), is_reasoned("B")
    (True, False)
    """
    return detect_style(text) in REASONING_STYLES


def _is_loop(text: str) -> bool:
    words = re.findall(r"\w+", text.lower())
    return len(words) >= _LOOP_WORDS and len(set(words)) < _LOOP_SHARE * len(words)
