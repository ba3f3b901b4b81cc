"""Text from a file, a model or a server, made safe to print."""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def printable(text: object, *, kept: str = _KEPT) -> str:
    r"""The text with every control character spelled out.

    Printing it then can't move the cursor, clear the screen or hide other text: escape sequences of a terminal, line
    separators, marks that reverse the reading direction and half surrogate pairs are written as `\x1b`, `\u2028` and
    so on. All other text is left as it is.

    Args:
        text: anything; its `str` is taken.
        kept: control characters that stay as they are.

    >>> print(printable("plain \x1b[31mred"))
    plain \x1b[31mred
    """
    return "".join(
        _spelled(c) if c not in kept and (unicodedata.category(c) in _HIDDEN or c in _BIDI) else c for c in str(text)
    )


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
