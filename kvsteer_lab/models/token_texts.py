"""The texts of tokens where they stand.

A token's text depends on the tokens before it: SentencePiece writes a word's leading space only where something stands
before the word, and a byte of a longer character has no text of its own. So tokens are decoded together with what
precedes them, never one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PART = "\ufffd"  # what a decoder writes for part of a character


def text_after(tokenizer: Any, before: Sequence[int], ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
    """The text of some tokens as it reads after others: decoded together, the text of the others left out.

    Args:
        tokenizer: a Hugging Face tokenizer.
        before: the tokens that precede, `[m]`.
        ids: the tokens, `[n]`.
        skip_special_tokens: whether special tokens have no text.

    Returns:
        Text that continues the text of `before`; both joined are the text of all tokens.

    >>> import kvsteer_lab as kv
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> ids = tokenizer("The answer is 18").input_ids
    >>> text_after(tokenizer, ids[:3], ids[3:])
    ' 18'
    """
    whole = _decode(tokenizer, [*before, *ids], skip_special_tokens)
    known = _beginning(whole, _decode(tokenizer, before, skip_special_tokens))
    return _decode(tokenizer, ids, skip_special_tokens) if known is None else whole[len(known) :]


def token_pieces(tokenizer: Any, ids: Sequence[int], before: Sequence[int] = ()) -> tuple[str, ...]:
    """The text of each token where it stands; special tokens have none, nor has part of a character before its last.

    Args:
        tokenizer: a Hugging Face tokenizer.
        ids: the tokens, `[n]`.
        before: the tokens that precede them, `[m]`.

    Returns:
        `n` texts; joined they are `text_after(tokenizer, before, ids)`.

    >>> import kvsteer_lab as kv
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> token_pieces(tokenizer, tokenizer("The answer is 18").input_ids)
    ('The', ' answer', ' is', ' 18')
    """
    whole = text_after(tokenizer, before, ids)
    for windowed in (True, False):
        pieces = _pieces(tokenizer, ids, before, windowed)
        if "".join(pieces) == whole:
            return pieces
    return (*[""] * (len(ids) - 1), whole) if ids else ()  # no tokenizer is known where this happens in readable text


def _pieces(tokenizer: Any, ids: Sequence[int], before: Sequence[int], windowed: bool) -> tuple[str, ...]:
    """Texts of growing prefixes, each less the one before; `windowed`, of the last few tokens only, in linear time."""
    every, pieces = [*before, *ids], list[str]()
    start, known = 0, len(before)
    said = _decode(tokenizer, every[start:known])
    for end in range(known + 1, len(every) + 1):
        text = _decode(tokenizer, every[start:end])
        is_whole = not text.endswith(_PART)
        if not is_whole and end < len(every):
            text = text.rstrip(_PART)
        beginning = _beginning(text, said)
        pieces.append("" if beginning is None else text[len(beginning) :])
        said = said if beginning is None else text
        if windowed and is_whole and beginning is not None and (context := _decode(tokenizer, every[known:end])):
            start, known, said = known, end, context
    return tuple(pieces)


def _beginning(text: str, known: str) -> str | None:
    """What a text begins with of what was known before it; part of a character may have become whole since."""
    return next((start for start in (known, known.rstrip(_PART)) if text.startswith(start)), None)


def _decode(tokenizer: Any, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))
