"""Spans: which slots of a prompt an edit acts on, named by index, by text, by message, or by what ends a sentence.

A span is looked up in each prompt by itself, so one edit serves prompts of any length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

from ...models.token_texts import token_pieces
from ...tasks.base import Chat

_SENTENCE = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)")


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


@dataclass(frozen=True)
class Text(Span):
    """The tokens of a text, wherever it stands in the prompt.

    Args:
        text: what is looked for, letter by letter. A token that holds only part of it belongs to it.
        number: which occurrence, counted from 0, negative ones from the last; `None`: all.

    Raises:
        ValueError: an empty text.

    >>> Text("answer").find(CachedPrompt((5, 6), ("The", " answer")))
    (1,)
    """

    text: str
    number: int | None = None

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("The span's text is empty; write the words whose tokens are meant.")

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        places = [m.start() for m in re.finditer(re.escape(self.text), prompt.text)]
        if self.number is not None:
            places = [places[self.number]] if -len(places) <= self.number < len(places) else []
        return tuple(sorted({slot for at in places for slot in prompt.slots_of(at, at + len(self.text))}))


@dataclass(frozen=True)
class Message(Span):
    """The tokens of a message's content; those that the chat template puts around it are left out.

    Args:
        role: only messages of that role are counted; `None`: all.
        number: which of them, counted from 0, negative ones from the last.

    >>> chat = [{"role": "user", "content": "2 + 3?"}]
    >>> Message("user").find(CachedPrompt((1, 5, 6, 2), ("", "2 +", " 3?", ""), chat))
    (1, 2)
    """

    role: str | None = None
    number: int = -1

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        places = prompt.contents()
        found = [
            prompt.slots_of(*place)
            for message, place in zip(prompt.chat, places, strict=True)
            if self.role is None or message["role"] == self.role
        ]
        return found[self.number] if -len(found) <= self.number < len(found) else ()


@dataclass(frozen=True)
class SentenceEnds(Span):
    """The last token of each sentence: the one that holds its full stop, question or exclamation mark (or the quotation
    mark after it). Abbreviations count as sentences, too.

    Args:
        within: a span in which to look; `None`: the whole prompt.

    >>> SentenceEnds().find(CachedPrompt((5, 6, 7, 8), ("It", " rains.", " Go", " home!")))
    (1, 3)
    """

    within: Span | None = None

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        ends = {slot for m in _SENTENCE.finditer(prompt.text) for slot in prompt.slots_of(m.end() - 1, m.end())}
        return tuple(sorted(ends if self.within is None else ends & set(self.within.find(prompt))))


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
