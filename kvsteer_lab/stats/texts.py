"""Statistics of single texts: repetition, loops and refusals."""

from __future__ import annotations

import re
from collections.abc import Sequence

LOOP_TURNS, LOOP_WORDS, LOOP_CHARACTERS = 3, 12, 48
"""A text loops if it ends in this many turns of one block that are this many words together; so does a last word of
this many characters.
"""

_REFUSAL = re.compile(
    r"\s*((I'?m|I am) (sorry|unable)|sorry\b|I (can't|cannot|can not|won't) (help|answer|assist|provide|do)|as an"
    r" AI\b)",
    re.IGNORECASE,
)


def is_loop(text: str) -> bool:
    """Whether a text ends in a block of words said three times or more in a row (twelve words at least in all).

    The same holds within a last word of 48 characters or more: models that break down often leave out the spaces.

    Args:
        text: a reply.

    Returns:
        Whether it ends in a loop.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.is_loop("So the answer is four. " * 3), kv.stats.is_loop("The answer is four.")
        (True, False)
    """
    words = text.split()
    return _recurs(words, LOOP_WORDS) or (bool(words) and _recurs(words[-1], LOOP_CHARACTERS))


def _recurs(parts: Sequence[str], least: int) -> bool:
    for period in range(1, len(parts) // LOOP_TURNS + 1):
        tail = parts[-max(LOOP_TURNS * period, least) :]
        if len(tail) >= least and tail[period:] == tail[:-period]:
            return True
    return False


def is_refusal(text: str) -> bool:
    """Whether a reply opens by declining: an apology, "I can't help", "as an AI".

    Args:
        text: a reply in English.

    Returns:
        Whether it declines.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.is_refusal("I'm sorry, but I can't help with that.")
        True
    """
    return _REFUSAL.match(text.replace("’", "'")) is not None


def repetition(token_ids: Sequence[int], n: int = 4) -> float:
    """Share of n-grams that are repeats of an earlier one; 0 for texts shorter than n tokens.

    Args:
        token_ids: the text's tokens; its words will do as well.
        n: length of a gram.

    Returns:
        A share between 0 and 1.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.repetition([1, 2, 3, 1, 2, 3], n=2)
        0.4
    """
    grams = [tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1)]
    return 0.0 if not grams else 1 - len(set(grams)) / len(grams)
