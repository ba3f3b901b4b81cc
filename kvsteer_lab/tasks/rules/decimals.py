"""Numbers in one plain form, so that they can be compared as strings."""

from __future__ import annotations

import re
from fractions import Fraction

from .reply import in_ascii

# Groups of three digits, or of two before the last three as in India; at most so many that a search stays linear.
DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,20}(?!,?\d)|\d{1,2}(?:,\d{2}){1,20},\d{3}(?!,?\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+"
NUMBER = re.compile(rf"(?:(?<![\w)\]}}])-)?[$€£¥]?(?:{DIGITS})")


def plain(number: str) -> str:
    """A decimal number in one plain form, of any length: no currency, no commas, no zeros that say nothing.

    >>> plain("$1,250.50"), plain("-0"), plain("１８")
    ('1250.5', '0', '18')
    """
    digits = re.sub(r"[$€£¥,]", "", in_ascii(number).strip())
    whole, _, decimals = digits.lstrip("+-").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    value = f"{whole}.{decimals}" if decimals else whole
    return f"-{value}" if digits.startswith("-") and value != "0" else value


def is_number(text: str) -> bool:
    """Whether the whole text is one decimal number.

    >>> is_number("1,234"), is_number("-$5.50"), is_number("12 apples")
    (True, True, False)
    """
    return NUMBER.fullmatch(in_ascii(text).strip()) is not None


def quotient(over: str, under: str) -> str | None:
    """A quotient in plain form: a decimal where it ends within twelve places (`"0.5"`), else a fraction in lowest terms
    (`"-1/3"`).
    """
    if len(over) > 40 or len(under) > 40 or not plain(under).strip("0"):
        return None
    value = Fraction(plain(over)) / Fraction(plain(under))
    scaled, rest = divmod(abs(value) * 10**12, 1)
    if rest:
        return str(value)
    digits = f"{scaled:013d}"
    return plain(f"{'-' if value < 0 else ''}{digits[:-12]}.{digits[-12:]}")
