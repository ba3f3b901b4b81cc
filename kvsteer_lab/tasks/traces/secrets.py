"""A key that must not be shown or stored: it is struck out of what a server sends, after decoding."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Any

SHORTEST = 8
"""Shorter values of a key's variable ("EMPTY", "none") are placeholders for servers that want none, and ordinary words
of replies: they are left alone."""


def key_in(variable: str) -> str:
    """The key in an environment variable, or an empty text.

    >>> key_in("A_VARIABLE_THAT_IS_NOT_SET")
    ''
    """
    return os.environ.get(variable, "").strip()


def without_key(value: Any, key: str) -> Any:
    r"""A text, or any JSON value, with the key struck out wherever it stands, also where it is escaped once more.

    Args:
        value: as decoded from JSON; lists and objects are gone through, other values stay.
        key: of at least `SHORTEST` characters, or nothing is struck out.

    >>> without_key({"message": "bad key sk-0123/456"}, "sk-0123/456")
    {'message': 'bad key ***'}
    >>> without_key(r'{"key": "sk\u002d0123\/456"}', "sk-0123/456")
    '{"key": "***"}'
    """
    if len(key) < SHORTEST:
        return value
    if isinstance(value, str):
        return _pattern(key).sub("***", value)
    if isinstance(value, list):
        return [without_key(item, key) for item in value]
    if isinstance(value, dict):
        return {without_key(name, key): without_key(item, key) for name, item in value.items()}
    return value


@lru_cache(maxsize=8)
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile("".join(map(_any_form, key)), re.IGNORECASE)


def _any_form(character: str) -> str:
    """A pattern for a character as it is, and as JSON, URLs and HTML may write it."""
    code = ord(character)
    forms = [rf"\\*{re.escape(character)}", rf"\\+u0*{code:x}", rf"\\+x{code:02x}", f"%(?:25)*{code:02x}"]
    return rf"(?:{'|'.join(forms)}|&(?:amp;)*#(?:0*{code}|x0*{code:x});)"
