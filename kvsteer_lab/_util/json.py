"""Reading JSON that others may have written: one reader, with limits, that says what is wrong in one sentence."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

DEPTH = 100
"""How many lists and objects may lie inside one another. What the package writes has fewer than ten levels."""

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path_or_text: Path | str | bytes, *, what: str) -> Any:
    """The value that a JSON document holds, or one sentence about what is wrong with it.

    Stricter than `json.loads`: `NaN`, `Infinity`, numbers that no float can hold (`1e999` would become infinity), half
    surrogate pairs (text that can't be written or printed), an object that has a name twice (readers take the first or
    the last) and more than `DEPTH` levels (which would end in a `RecursionError`) are refused.

    Args:
        path_or_text: a `Path` is a file, in UTF-8 with or without a byte-order mark; a `str` or `bytes` is the
            document itself.
        what: what the document is, for the message, as in "The card in vectors.safetensors".

    Returns:
        Dictionaries, lists, texts, numbers, booleans and `None`.

    Raises:
        ValueError: no valid JSON, or one of the above; the message begins with `what`.
        OSError: the file can't be read.

    >>> read_json('{"layers": [1, 2]}', what="The header")
    {'layers': [1, 2]}
    >>> read_json('{"dose": NaN}', what="The header")
    Traceback (most recent call last):
    ValueError: The header can't be read as JSON: it holds NaN, which isn't a JSON number.
    """
    try:
        text = _text(path_or_text)
        _check_depth(text)
        found = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)
        if _ESCAPED_SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} can't be read as JSON: it holds half of a surrogate pair, which isn't a character."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what} can't be read as JSON: it isn't UTF-8 text ({error.reason} at byte {error.start})."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} can't be read as JSON: {error}.") from error
    except (ValueError, RecursionError) as error:  # also a whole number of more digits than Python converts
        raise ValueError(f"{what} can't be read as JSON: {str(error).rstrip('.')}.") from error


def first_fault(error: ValidationError) -> str:
    """What a pydantic validation found first, in a few words, and how many more faults there are.

    >>> from pydantic import TypeAdapter
    >>> try:
    ...     TypeAdapter(list[int]).validate_json('["a", "b"]', strict=True)
    ... except ValidationError as error:
    ...     first_fault(error)
    '0: Input should be a valid integer, and 1 more'
    """
    first, *others = error.errors()
    place = ".".join(str(part) for part in first["loc"])
    more = f", and {len(others)} more" if others else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


def _text(source: Path | str | bytes) -> str:
    if isinstance(source, str):
        return source.removeprefix("\ufeff")
    data = source.read_bytes() if isinstance(source, Path) else source
    return data.decode("utf-8-sig")


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH:
        return
    level = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub("", text)):
        level += 1 if bracket in "[{" else -1
        if level > DEPTH:
            raise ValueError(f"it has more than {DEPTH} levels of lists and objects inside one another")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which isn't a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"an object in it has the name {twice[:64]!r} twice")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"it holds {digits}, which is larger than any number that a float can hold")
    return number
