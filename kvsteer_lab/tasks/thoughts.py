"""The thoughts of a thinking model, and the reply that comes after them.

A thinking model writes `<think> ... </think>` before it answers. What it says there is not its answer, and not in the
style of its answer, so the rules that read answers and the style detectors look at what follows. Many chat templates
write the opening tag into the prompt; a reply then holds the closing tag only.
"""

from __future__ import annotations

import re

__all__ = ["after_thoughts"]

_CLOSE = re.compile(r"</think(?:ing)?>|\[/THINK\]", re.IGNORECASE)
_OPEN = re.compile(r"\s*(?:<think(?:ing)?>|\[THINK\])", re.IGNORECASE)


def after_thoughts(text: str, *, unfinished: bool = False) -> str:
    """The part of a reply that follows its thoughts; the whole reply if it has none.

    Args:
        text: a reply.
        unfinished: whether thoughts that were opened and never closed count as thoughts, so that nothing follows them.

    Returns:
        What follows the last closing tag.

    >>> after_thoughts("<think>Is it 5? No, 6.</think>The answer is 6.")
    'The answer is 6.'
    >>> after_thoughts("<think>Is it 5?", unfinished=True)
    ''
    >>> after_thoughts("The answer is 6.")
    'The answer is 6.'
    """
    ends = [match.end() for match in _CLOSE.finditer(text)]
    if ends:
        return text[ends[-1] :]
    return "" if unfinished and _OPEN.match(text) else text
