"""The form of a reply: JSON, bullet points, a few words."""

from __future__ import annotations

import json
import re

from pydantic_core import from_json

BRIEF = 15
"""How many words a brief reply has at most."""
_FENCE = re.compile(r"^```(?:json)?\s*\n?(.*?)(?:\n?```\s*)?$", re.DOTALL)
_BULLET = re.compile(r"\s*(?:[-*•–]|\d{1,2}[.)])\s+\S")


def is_json(text: str, *, whole: bool = False) -> bool:
    """Whether a reply is a JSON object or array, and nothing else; a code fence around it is allowed.

    Args:
        text: a reply.
        whole: `False`: the beginning of one will do, for replies that were cut.

    >>> is_json('{"answer": ["apple", "pea'), is_json('{"answer": ["apple", "pea', whole=True)
    (True, False)
    >>> is_json("The answer is [1]."), is_json("[]")
    (False, False)
    """
    stripped = text.strip()
    found = _FENCE.match(stripped)
    body = (found[1] if found else stripped).strip()
    if not body.startswith(("{", "[")):
        return False
    try:
        return bool(json.loads(body))
    except json.JSONDecodeError as error:
        if whole or error.msg == "Extra data":  # something follows it
            return False
    try:
        return bool(from_json(body, allow_partial="trailing-strings"))
    except ValueError:
        return False


def is_bulleted(text: str) -> bool:
    """Whether a reply is a list: two items or more ("-", "*", "•", "1."), and at least half of its lines are items.

    >>> is_bulleted("- an apple\\n- a pear"), is_bulleted("An apple - or a pear.")
    (True, False)
    """
    lines = [line for line in text.splitlines() if line.strip()]
    items = sum(_BULLET.match(line) is not None for line in lines)
    return items >= 2 and 2 * items >= len(lines)


def is_brief(text: str) -> bool:
    """Whether a reply has some words and at most `BRIEF` of them. Replies must be allowed more tokens than that.

    >>> is_brief("Because it is lighter."), is_brief("word " * 20), is_brief("")
    (True, False, False)
    """
    return 0 < sum(any(map(str.isalnum, word)) for word in text.split()) <= BRIEF
