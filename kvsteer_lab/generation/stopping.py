"""Texts that end a reply: what a base model writes when it goes on to the next question, say.

A reply ends before the first stop string. Whether one has come is asked row by row, of a row's new tokens alone, so
what else is in the batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from transformers import StoppingCriteria

from ..models.prompts import render
from ..models.token_texts import text_after

_MARGIN = 8  # tokens read beyond the longest stop string's bytes: special tokens and parts of characters have no text
_REPLY, _NEXT = "kvsteer", "question"


class Said(NamedTuple):
    """What a row's new tokens say.

    Attributes:
        ids: the reply's own tokens, without an end token, and without those in which a stop string alone stands.
        text: what they say, up to a stop string.
        finish_reason: `"eos"`, `"stop"` (a stop string) or `"length"`.
    """

    ids: list[int]
    text: str
    finish_reason: str


@dataclass(frozen=True)
class StopStrings:
    """Texts any of which ends a reply.

    Attributes:
        tokenizer: decodes.
        strings: the texts; none: nothing is looked for.

    >>> import kvsteer_lab as kv
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> stop = StopStrings(tokenizer, ("answer",))
    >>> ids = tokenizer("The answer is 18").input_ids
    >>> stop.found(ids[:1]), stop.found(ids[:2]), stop.cut(ids) == ids[:2]
    (False, True, True)
    """

    tokenizer: Any
    strings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.strings)

    def begins(self, text: str) -> int | None:
        """Where the first stop string begins in a text; `None` if there is none."""
        return min((at for s in self.strings if (at := text.find(s)) >= 0), default=None)

    def found(self, ids: Sequence[int]) -> bool:
        """Whether a row's new tokens hold a stop string that their last tokens complete.

        Args:
            ids: all new tokens of one row, `[n]`.
        """
        if not self.strings or not ids:
            return False
        width = max(len(s.encode()) for s in self.strings) + _MARGIN
        return self.begins(self._text(ids[-width:])) is not None and self.begins(self._text(ids)) is not None

    def cut(self, ids: Sequence[int]) -> list[int]:
        """The tokens up to the one that completes a stop string, which is kept as an end token is.

        Args:
            ids: new tokens of one row, `[n]`.
        """
        if not self.strings or self.begins(self._text(ids)) is None:
            return list(ids)
        low, high = 1, len(ids)  # the shortest beginning that holds one
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.begins(self._text(ids[:middle])) is not None else (middle + 1, high)
        return list(ids[:low])

    def held_back(self, text: str) -> int:
        """How many characters at the end of a text may be the beginning of a stop string."""
        return max(
            (n for s in self.strings for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n])), default=0
        )

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


class StopsAtStrings(StoppingCriteria):
    """Ends each row at its first stop string.

    Args:
        stop: the texts.
        width: how many columns of the ids stand before the new tokens.
        before: each row's new tokens of earlier calls.

    Attributes:
        over: `[rows]`, which rows have come to a stop string.
    """

    def __init__(self, stop: StopStrings, width: int, before: Sequence[Sequence[int]] = ()) -> None:
        self.stop, self.width, self.before = stop, width, before
        self.over: Bool[torch.Tensor, " rows"] = torch.zeros(0, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **unused: Any) -> torch.Tensor:
        if len(self.over) != len(input_ids):
            self.over = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        if self.stop:
            before = self.before or [()] * len(input_ids)
            new = zip(before, input_ids[:, self.width :].tolist(), self.over.tolist(), strict=True)
            found = [over or self.stop.found([*first, *last]) for first, last, over in new]
            self.over = torch.tensor(found, device=input_ids.device)
        return self.over


def cut(ids: Sequence[int], eos: frozenset[int]) -> list[int]:
    """The ids up to the first end token, which is kept; what follows is padding.

    Args:
        ids: new tokens of a row.
        eos: end tokens.

    Returns:
        The row's own tokens.

    >>> cut([5, 6, 2, 0, 0], frozenset([2]))
    [5, 6, 2]
    """
    for i, token in enumerate(ids):
        if token in eos:
            return list(ids[: i + 1])
    return list(ids)


def read_said(stop: StopStrings, eos: frozenset[int], ids: Sequence[int], forced: Sequence[int] = ()) -> Said:
    """What a row's new tokens say, and why they end.

    Args:
        stop: texts that end a reply.
        eos: end tokens.
        ids: new tokens of one row, up to its end.
        forced: tokens of the answer that stand before them.

    Returns:
        The reply. A token that holds the reply's last characters and the beginning of a stop string is among its ids.

    >>> import kvsteer_lab as kv
    >>> tokenizer = kv.load("tiny").tokenizer
    >>> ids = tokenizer("The answer is 18").input_ids
    >>> read_said(StopStrings(tokenizer, (" is",)), frozenset(), ids)[1:]
    ('The answer', 'stop')
    """
    ended = bool(ids) and ids[-1] in eos
    said = list(ids[:-1] if ended else ids)
    text = text_after(stop.tokenizer, forced, said)
    at = stop.begins(text)
    if at is None:
        return Said(said, text, "eos" if ended else "length")
    text = text[:at]
    kept = len(said)
    while kept and text_after(stop.tokenizer, forced, said[: kept - 1]).startswith(text):
        kept -= 1
    return Said(said[:kept], text, "stop")


def next_question(tokenizer: Any) -> tuple[str, ...]:
    """The stop string of a chat template that writes plain text: the words with which its next question begins.

    Args:
        tokenizer: with the template.

    Returns:
        One text, a new line and those words; empty where the template puts a special token after a reply, has no words
        before a question, or refuses a second question.

    >>> import kvsteer_lab as kv
    >>> next_question(kv.PlainTemplate().on(kv.load("tiny").tokenizer)), next_question(kv.load("tiny").tokenizer)
    (('\\nQuestion:',), ())
    """
    first = {"role": "user", "content": "a"}
    chat = [first, {"role": "assistant", "content": _REPLY}, {"role": "user", "content": _NEXT}]
    try:
        text = render(tokenizer, chat)
    except Exception:  # a template that refuses a second question has no words for it
        return ()
    after, found, _ = text.rpartition(_REPLY)[2].partition(_NEXT)
    special = any(token.strip() and token in after for token in _specials(tokenizer))
    words = after.strip()
    return ("\n" + words,) if found and words and "\n" in after and not special else ()


def _specials(tokenizer: Any) -> set[str]:
    return {str(token) for token in (*tokenizer.all_special_tokens, *tokenizer.added_tokens_decoder.values())}
