"""Token ids: encoding, the offset token, padding on the left, and positions."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from .prompts import check_text


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` as it stands: no BOS or other special token is added.

    Args:
        tokenizer: the model's.
        text: what is tokenised.

    Returns:
        Its ids.

    Raises:
        ValueError: text that can't be encoded.

    >>> import kvsteer_lab as kv
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> tokenizer.decode(encode(tokenizer, "How many?"))
    'How many?'
    """
    return list(tokenizer(check_text(text, "The text"), add_special_tokens=False, verbose=False).input_ids)


def missing_bos(tokenizer: Any, ids: Sequence[int]) -> str | None:
    """The token that the tokenizer itself puts at the beginning of a text, where `ids` don't begin with it.

    Args:
        tokenizer: the model's.
        ids: of a whole prompt.

    Returns:
        The token's text; `None`: it is there, or the tokenizer puts none.

    >>> import kvsteer_lab as kv
    >>> missing_bos(kv.load("tiny").tokenizer, [5, 6]) is None
    True
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or (ids and ids[0] == bos) or list(tokenizer("a").input_ids[:1]) != [bos]:
        return None
    return str(tokenizer.bos_token)


def offset_token(tokenizer: Any, offset: str | int | None) -> int | None:
    """The id of the offset token, the one that stands between the steered slot and the answer.

    It is an id and never joined to the prompt as text, where BPE would merge it into another token.

    Args:
        tokenizer: the model's.
        offset: a text that is one token, an id, or `None` for no offset.

    Returns:
        The id, or `None`.

    Raises:
        ValueError: the text is not exactly one token, or the id is outside the vocabulary.

    >>> import kvsteer_lab as kv
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> tokenizer.decode([offset_token(tokenizer, "\\n")])
    '\\n'
    """
    if offset is None:
        return None
    if isinstance(offset, Integral) and not isinstance(offset, bool):
        offset = int(offset)
        if not 0 <= offset < len(tokenizer):
            raise ValueError(f"Offset id {offset} is outside the vocabulary of {len(tokenizer)} tokens.")
        return offset
    if not isinstance(offset, str):
        raise ValueError(f"The offset is {offset!r}; give a text that is one token, a token id, or None.")
    ids = encode(tokenizer, check_text(offset, "The offset"))
    if len(ids) != 1:
        # SentencePiece puts a space before a lone newline; after a word it is the one token we want.
        stem = encode(tokenizer, "a")
        after = encode(tokenizer, "a" + offset)
        ids = after[len(stem) :] if after[: len(stem)] == stem else ids
    if len(ids) != 1:
        raise ValueError(
            f"The offset {offset!r} is {len(ids)} tokens for this tokenizer, not one; choose another text or pass a"
            " token id."
        )
    return ids[0]


def pad_token(tokenizer: Any, rows: int | None = None) -> int:
    """An id to pad with; masked everywhere, so any id does where the tokenizer names none that the model has.

    Args:
        tokenizer: the model's.
        rows: how many tokens the model's embedding has; a pad token that was added to the tokenizer alone lies beyond.

    Returns:
        The id.

    >>> import kvsteer_lab as kv
    >>> pad_token(kv.load("tiny").tokenizer)
    0
    """
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None and (rows is None or int(token) < rows):
            return int(token)
    return 0


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Int[Tensor, "rows time"], Int[Tensor, "rows time"]]:
    """Left-padded ids and their mask (1 = a real token).

    Args:
        rows: token ids, a row each.
        pad: the id that fills.
        device: where both are put.

    Returns:
        Two tensors `[rows, time]`.

    >>> import torch
    >>> pad_left([[5], [6, 7]], 0, torch.device("cpu"))[0].tolist()
    [[0, 5], [6, 7]]
    """
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def positions(mask: Int[Tensor, "rows time"]) -> Int[Tensor, "rows time"]:
    """Positions counted from each row's first real token. Without them left-padded keys are wrong.

    Args:
        mask: `[rows, time]`, 1 where a token is real.

    Returns:
        `[rows, time]`.

    >>> import torch
    >>> positions(torch.tensor([[0, 1, 1]])).tolist()
    [[0, 0, 1]]
    """
    return (mask.cumsum(-1) - 1).clamp(min=0)
