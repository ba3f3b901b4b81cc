"""Chunks: the parts that a prompt was put together from, retrieved texts for instance, and the slots that hold them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ...models.model import Model
from ...models.prompts import Prompt, as_chat
from ...tasks.base import Chat
from ..given import whole_number
from .spans import CachedPrompt, Span

Place = tuple[int, int, int]
"""A message's number and the characters of its content that a chunk is: the first, and the one behind the last."""


class Chunks:
    """A way to find the chunks of a chat. Subclasses say which characters they are."""

    def places(self, chat: Chat) -> tuple[Place, ...]:
        """Where the chunks are, in their order.

        Args:
            chat: the conversation; text that is taken as it stands counts as one message.

        Raises:
            ValueError: there are none, or it isn't clear where they begin and end.

        >>> import kvsteer_lab as kv
        >>> chat = [{"role": "tool", "content": "Snow."}, {"role": "user", "content": "Why?"}]
        >>> kv.spans.Messages("tool").places(chat)
        ((0, 0, 5),)
        """
        raise TypeError(f"{type(self).__name__} doesn't say where chunks are; define places.")

    def texts(self, chat: Chat) -> tuple[str, ...]:
        """The chunks' texts. Errors are those of `places`."""
        return tuple(chat[message]["content"][start:end] for message, start, end in self.places(chat))

    def without(self, chat: Chat, number: int) -> Chat:
        """The chat without one chunk; a message of which nothing is left is taken out.

        Raises:
            ValueError: no such chunk, or as `places`.
        """
        message, start, end = self.places(chat)[self.index(number, len(self.places(chat)))]
        content = chat[message]["content"]
        left = {**chat[message], "content": content[:start] + content[end:]}
        return [*chat[:message], *([left] if left["content"].strip() else []), *chat[message + 1 :]]

    def index(self, number: int, n: int) -> int:
        """A chunk's number counted from 0.

        Raises:
            ValueError: there are only `n` chunks.
        """
        if not -n <= number < n:
            raise ValueError(f"There is no chunk {number} among {n}; choose {-n} to {n - 1}.")
        return number % n

    def find(self, prompt: CachedPrompt) -> tuple[tuple[int, ...], ...]:
        """The slots of each chunk.

        Args:
            prompt: the row's cached tokens.

        Raises:
            ValueError: as `places`, a message that the chat template doesn't write as it stands, or a token that
                belongs to two chunks.
        """
        chat = prompt.chat or [{"role": "user", "content": prompt.text}]
        contents = prompt.contents() if prompt.chat else [(0, len(prompt.text))]
        found = []
        for number, (message, start, end) in enumerate(self.places(chat)):
            content = chat[message]["content"]
            first, last = contents[message]
            lead = len(content) - len(content.lstrip()) if prompt.chat else 0
            slots = _whole(prompt, max(first, first + start - lead), min(last, first + end - lead))
            if first < 0 or not slots:
                raise ValueError(
                    f"Chunk {number} isn't in the prompt as the chat template writes it; look at the rendered prompt."
                )
            found.append(slots)
        taken: dict[int, int] = {}
        for number, slots in enumerate(found):
            for slot in slots:
                if taken.setdefault(slot, number) != number:
                    raise ValueError(
                        f"Chunks {taken[slot]} and {number} share the token {prompt.pieces[slot]!r}, so no slot parts"
                        " them; put a delimiter between them that is a token of its own."
                    )
        return tuple(found)


def check_chunks(chunks: object) -> None:
    """Refuse what doesn't say where chunks are.

    Args:
        chunks: what was given as a way to find them.

    Raises:
        ValueError: something else.

    >>> import kvsteer_lab as kv
    >>> check_chunks(kv.spans.Delimited("."))
    """
    if not isinstance(chunks, Chunks):
        raise ValueError(f"The chunks are {chunks!r}; use kv.spans.Delimited, Offsets or Messages.")


@dataclass(frozen=True)
class Chunk(Span):
    """All slots of one chunk.

    Args:
        chunks: how chunks are found.
        number: which, counted from 0, negative ones from the last.

    Raises:
        ValueError: chunks that aren't a way to find them, or a number that isn't whole.

    >>> import kvsteer_lab as kv
    >>> Chunk(kv.spans.Delimited("."), 1).find(CachedPrompt((5, 6, 7), ("Snow.", " Coal", ".")))
    (1, 2)
    """

    chunks: Chunks
    number: int

    def __post_init__(self) -> None:
        check_chunks(self.chunks)
        object.__setattr__(self, "number", whole_number("The chunk's number", self.number))

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        found = self.chunks.find(prompt)
        return found[self.chunks.index(self.number, len(found))]


@dataclass(frozen=True)
class ChunkEnds(Span):
    """The last slot of one chunk, or of each.

    Args:
        chunks: how chunks are found.
        number: which, counted from 0, negative ones from the last; `None`: each.

    Raises:
        ValueError: as `Chunk`.

    >>> import kvsteer_lab as kv
    >>> ChunkEnds(kv.spans.Delimited(".")).find(CachedPrompt((5, 6, 7), ("Snow.", " Coal", ".")))
    (0, 2)
    """

    chunks: Chunks
    number: int | None = None

    def __post_init__(self) -> None:
        check_chunks(self.chunks)
        if self.number is not None:
            object.__setattr__(self, "number", whole_number("The chunk's number", self.number))

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        ends = tuple(slots[-1] for slots in self.chunks.find(prompt))
        return tuple(sorted(ends)) if self.number is None else (ends[self.chunks.index(self.number, len(ends))],)


def find_chunks(model: Model, prompt: Prompt, chunks: Chunks, *, chat: bool = True) -> pd.DataFrame:
    """The chunks of a prompt and the slots that hold them.

    Args:
        model: whose tokenizer and chat template count.
        prompt, chat: as in `model.encode`.
        chunks: how chunks are found.

    Returns:
        One row a chunk, by its number: `first` and `last` (slots, counted from 0), `tokens`, `text`.

    Raises:
        ValueError: as `model.encode`, or no chunks where they are looked for.

    >>> import kvsteer_lab as kv
    >>> chunks = kv.spans.Delimited(". ", before="How")
    >>> found = find_chunks(kv.load("tiny"), "Tom has 2 pens. Ann has 3 pens. How many?", chunks)
    >>> found.text.tolist()
    ['Tom has 2 pens. ', 'Ann has 3 pens. ']
    """
    asked = as_chat(prompt) if chat else None
    known = CachedPrompt.of(model.tokenizer, model.encode(prompt, chat=chat), asked)
    texts = chunks.texts(asked or [{"role": "user", "content": known.text}])
    rows = [(slots[0], slots[-1], len(slots), text) for slots, text in zip(chunks.find(known), texts, strict=True)]
    return pd.DataFrame(rows, columns=["first", "last", "tokens", "text"]).rename_axis("chunk")


def _whole(prompt: CachedPrompt, start: int, end: int) -> tuple[int, ...]:
    """The slots of some characters, less a last token that goes on behind them and has but white space of theirs."""
    slots = prompt.slots_of(start, end)
    if len(slots) > 1:
        behind = sum(map(len, prompt.pieces[: slots[-1] + 1])) - end
        piece = prompt.pieces[slots[-1]]
        if behind > 0 and not piece[: len(piece) - behind].strip():
            return slots[:-1]
    return slots
