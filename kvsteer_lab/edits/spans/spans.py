"""Spans: which slots of a prompt an edit acts on, named by index here and by words in `words`.

A span is looked up in each prompt by itself, so one edit serves prompts of any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

from ...models.token_texts import token_pieces
from ...tasks.base import Chat


@dataclass(frozen=True)
class CachedPrompt:
    """What a span is looked up in: the cached tokens of one row.

    Attributes:
        ids: token ids.
        pieces: the text that each token adds; special tokens have none. Empty where the tokens aren't known.
        chat: the chat that was rendered; `None`: text that was taken as it stands, or unknown.

    >>> import kvsteer_lab as kv
    >>> model = kv.load("tiny")
    >>> CachedPrompt.of(model.tokenizer, model.encode("The answer", chat=False)).pieces
    ('The', ' answer')
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...] = ()
    chat: Any = None

    @classmethod
    def of(cls, tokenizer: Any, ids: Sequence[int], chat: Chat | str | None = None) -> CachedPrompt:
        """The tokens with their texts.

        Args:
            tokenizer: the model's.
            ids: what is cached.
            chat: what was rendered, if it was a chat.
        """
        return cls(tuple(ids), token_pieces(tokenizer, ids), None if isinstance(chat, str) else chat)

    @property
    def text(self) -> str:
        """The text of all tokens, special ones left out.

        Raises:
            ValueError: only the number of tokens is known.
        """
        if len(self.pieces) != len(self.ids):
            raise ValueError(
                "A span by text or message needs the prompt's tokens, and here only their number is known; pass"
                " prompts=, or name slots by index."
            )
        return "".join(self.pieces)

    def slots_of(self, start: int, end: int) -> tuple[int, ...]:
        """The slots whose tokens hold characters `start` to `end` of the text, `end` not included."""
        found, at = [], 0
        for slot, piece in enumerate(self.pieces):
            if at < end and at + len(piece) > start:
                found.append(slot)
            at += len(piece)
        return tuple(found)

    def contents(self) -> list[tuple[int, int]]:
        """Where each message's content begins and ends in the text, white space around it left out.

        Returns:
            A place a message; `(-1, -1)`: it is empty, or the chat template writes something else.

        Raises:
            ValueError: the prompt was no chat.
        """
        text, found, start = self.text, [], 0
        if self.chat is None:
            raise ValueError("The prompt was taken as it stands (or as tokens), so it has no messages; use spans.Text.")
        for message in self.chat:
            content = message["content"].strip()
            at = text.find(content, start)
            if at >= 0:
                start = at + len(content)
            found.append((at, start) if at >= 0 and content else (-1, -1))
        return found


class Span:
    """A choice of slots. Subclasses say which."""

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        """Ascending slots, counted from the row's first token; empty if there are none.

        Args:
            prompt: the row's cached tokens.

        >>> Everything().find(CachedPrompt((5, 6)))
        (0, 1)
        """
        raise TypeError(f"{type(self).__name__} doesn't say which slots it means; define find.")


@dataclass(frozen=True, init=False)
class Slots(Span):
    """Slots by index; negative ones count from the end of the cached prompt.

    Args:
        numbers: at least one.

    Raises:
        ValueError: none, or something that isn't a whole number.

    >>> Slots(0, -1).find(CachedPrompt((5, 6, 7)))
    (0, 2)
    """

    numbers: tuple[int, ...]

    def __init__(self, *numbers: SupportsIndex) -> None:
        if not numbers or any(isinstance(n, bool) or not isinstance(n, SupportsIndex) for n in numbers):
            raise ValueError(f"Slots are named by whole numbers, such as Slots(-1), not by {numbers!r}.")
        object.__setattr__(self, "numbers", tuple(n.__index__() for n in numbers))

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        n = len(prompt.ids)
        wrong = next((slot for slot in self.numbers if not -n <= slot < n), None)
        if wrong is not None:
            raise ValueError(f"Slot {wrong} is out of range: {n} tokens are cached; choose {-n} to {n - 1}.")
        return tuple(sorted({slot % n for slot in self.numbers}))


@dataclass(frozen=True)
class Everything(Span):
    """All of the prompt.

    >>> Everything().find(CachedPrompt((5, 6)))
    (0, 1)
    """

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        return tuple(range(len(prompt.ids)))


def find_slots(span: Span, prompt: CachedPrompt, row: int) -> Slots:
    """A span's slots in one row.

    Args:
        span: what is looked up.
        prompt: the row's cached tokens.
        row: its number, for the error.

    Returns:
        The slots by index.

    Raises:
        ValueError: the span isn't there, or a slot is out of range.

    >>> find_slots(Everything(), CachedPrompt((5, 6)), 0)
    Slots(numbers=(0, 1))
    """
    found = span.find(prompt)
    if not found:
        raise ValueError(f"The span {span!r} is not found in prompt {row}; choose one that every prompt has.")
    return Slots(*found)
