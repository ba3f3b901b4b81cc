"""The five reasoning styles of cache steering's style-transfer experiment, and detectors for them.

A detector looks at the form of a text and not at whether its reasoning is right. Each style has several cues
(`tasks/cues/`), read without markdown and special tokens, and needs two of them or one that opens the reply; where
several styles have them, the more particular one counts (`docs/style_labels.md`). A text that does little but repeat
itself has no style.
"""

from __future__ import annotations

import re

from ..stats.texts import is_refusal
from .cues import (
    Layout,
    after_choices,
    analogy_cues,
    cause_cues,
    in_words,
    role_cues,
    step_cues,
    strategy_cues,
)
from .thoughts import after_thoughts

__all__ = ["REASONING_STYLES", "STYLES", "detect_style", "is_reasoned"]

STYLES = ("direct", "strategy_execution", "stepwise", "causal_chain", "annotated_deduction", "analogical")
"""Every style that a reply of the bundled tasks can have: answering directly, and five ways to reason."""

REASONING_STYLES = STYLES[1:]
"""The five ways to reason: every style but `"direct"`."""

_CUES = {
    "annotated_deduction": role_cues,
    "strategy_execution": strategy_cues,
    "analogical": analogy_cues,
    "stepwise": step_cues,
    "causal_chain": cause_cues,
}
"""Style -> the count of its cues; the first style with two of them is the reply's."""
_ENOUGH = 2
_SAYS_ANSWER = re.compile(r"\b(answer|choice|option)( is\b|:)", re.IGNORECASE)
_OPENS_WITH_ANSWER = re.compile(
    r"((so|hence|clearly|therefore|thus)?,?\s*(the )?((most )?\w+ )?(answer|choice|option)( to \w[^.:]{0,60})?"
    r"( (is|would be|should be)\b|:)|\(?[A-H]([).:]|$)|[-$]?\d[\d,.]*( [a-z]{3,20})?\W*$)",
    re.IGNORECASE,
)
_INLINE_CHOICE, _FEW_CHOICES = re.compile(r"(?:^| )\(?([A-H])[:)] "), 2
_SETS_OUT = re.compile(r"(?:let|to|first|step|strategy|if|for|when|i )|[^A-Z0-9$]|.*[:=]", re.IGNORECASE)
_SHORT, _VERY_SHORT = 30, 12
_LOOP_WORDS, _LOOP_SHARE = 40, 0.12
_THINKS = re.compile(r"\s*(?:<think(?:ing)?>|\[THINK\])", re.IGNORECASE)


def detect_style(text: str) -> str:
    """The style of a reply, told by its form; of a thinking model's reply, that of what follows its thoughts.

    Thoughts that were cut off before anything followed are read themselves.

    Args:
        text: a reply.

    Returns:
        One of `STYLES`, or `"other"`.

    >>> detect_style("**Step 1:** 2 + 2 = 4.\\n**Step 2:** Done."), detect_style("The answer is 4.")
    ('stepwise', 'direct')
    >>> detect_style("<think>Step 1: 2 + 2 = 4.</think>The answer is 4.")
    'direct'
    """
    text = _without_opening_tag(after_thoughts(text)).strip()
    if _is_loop(text) or is_refusal(text):
        return "other"
    layout = Layout.of(text)
    for style, cues in _CUES.items():
        if cues(layout) >= _ENOUGH:
            return style
    return "direct" if _is_direct(layout) else "other"


def _without_opening_tag(text: str) -> str:
    match = _THINKS.match(text)
    return text[match.end() :] if match else text


def is_reasoned(text: str) -> bool:
    """Whether the reply has one of the five reasoning styles.

    >>> is_reasoned("If it rains then the ground is wet."), is_reasoned("B")
    (True, False)
    """
    return detect_style(text) in REASONING_STYLES


def _is_direct(layout: Layout) -> bool:
    told = after_choices(layout)
    if len(set(_INLINE_CHOICE.findall(told))) > _FEW_CHOICES:
        return False
    words = sum(len(sentence.split()) for sentence in dict.fromkeys(re.split(r"(?<=[.!?]) ", told)))
    if words <= _SHORT and _OPENS_WITH_ANSWER.match(told):
        return True
    return words <= _VERY_SHORT and bool(_SAYS_ANSWER.search(told) or _is_statement(layout))


def _is_statement(layout: Layout) -> bool:
    """Whether all that is said is one plain sentence."""
    return (
        len(layout.sentences) == 1
        and layout.text.endswith(".")
        and in_words(layout.text)
        and not _SETS_OUT.match(layout.text)
    )


def _is_loop(text: str) -> bool:
    words = re.findall(r"\w+", text.lower())
    return len(words) >= _LOOP_WORDS and len(set(words)) < _LOOP_SHARE * len(words)
