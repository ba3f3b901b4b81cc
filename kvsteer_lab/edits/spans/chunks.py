"""Chunks: the parts that a prompt was put together from, retrieved texts for instance, and the slots that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd

from ...models.model import Model
from ...models.prompts import Prompt, as_chat
from ...tasks.base import Chat
from .spans import CachedPrompt, Message, Span

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

        >>> Messages("tool").places([{"role": "tool", "content": "Snow."}, {"role": "user", "content": "Why?"}])
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


@dataclass(frozen=True)
class Delimited(Chunks):
    """Chunks that end in a delimiter, which belongs to the chunk that it ends; what follows the last one is a chunk if
    it isn't empty.

    Args:
        delimiter: what each chunk ends in.
        after, before: words of the message between which the chunks stand; `None`: from its beginning, to its end.
        message: in which message; `None`: the last one.

    Raises:
        ValueError: an empty delimiter. When it is used: a message, a delimiter or words that aren't there, words that
            are there more than once, or a chunk with nothing in it.

    >>> chat = [{"role": "user", "content": "Facts:\\nSnow is white.\\nCoal is black.\\nWhat is black?"}]
    >>> Delimited("\\n", after="Facts:\\n", before="What").texts(chat)
    ('Snow is white.\\n', 'Coal is black.\\n')
    """

    delimiter: str
    after: str | None = None
    before: str | None = None
    message: Message | None = None

    def __post_init__(self) -> None:
        if not self.delimiter or self.after == "" or self.before == "":
            raise ValueError("A delimiter, and the words after or before which chunks stand, can't be empty.")

    def places(self, chat: Chat) -> tuple[Place, ...]:
        number = _message(chat, self.message)
        content = chat[number]["content"]
        start = 0 if self.after is None else _only(content, self.after) + len(self.after)
        end = len(content) if self.before is None else _only(content, self.before)
        if self.delimiter not in content[start:end]:
            raise ValueError(
                f"The delimiter {self.delimiter!r} isn't in message {number}"
                f"{'' if self.after is self.before is None else ' where chunks are looked for'}; give one that is."
            )
        pieces = content[start:end].split(self.delimiter)
        if not pieces[-1].strip():
            end -= len(pieces.pop())
        ends = [start]
        for count, piece in enumerate(pieces):
            if not piece.strip():
                raise ValueError(
                    f"Chunk {count} is empty: the delimiter {self.delimiter!r} stands with nothing before it; give a"
                    " longer delimiter, or after= and before=."
                )
            ends.append(min(end, ends[-1] + len(piece) + len(self.delimiter)))
        return tuple((number, *both) for both in pairwise(ends))


@dataclass(frozen=True)
class Offsets(Chunks):
    """Chunks by the characters of a message's content, as retrievers give them.

    Args:
        offsets: the first character of each chunk, counted from 0, and the one behind its last.
        message: in which message; `None`: the last one.

    Raises:
        ValueError: none, or a chunk with nothing in it. When it is used: characters that the message hasn't got.

    >>> Offsets([(0, 5), (6, 11)]).texts([{"role": "user", "content": "Snow. Coal."}])
    ('Snow.', 'Coal.')
    """

    offsets: Sequence[tuple[int, int]]
    message: Message | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", tuple((int(start), int(end)) for start, end in self.offsets))
        wrong = next((pair for pair in self.offsets if not 0 <= pair[0] < pair[1]), None)
        if not self.offsets or wrong is not None:
            raise ValueError(
                f"The offsets {wrong or ()} hold no characters; give the first one and the one behind the last."
            )

    def places(self, chat: Chat) -> tuple[Place, ...]:
        number = _message(chat, self.message)
        content = chat[number]["content"]
        for count, (start, end) in enumerate(self.offsets):
            if end > len(content):
                raise ValueError(f"Chunk {count} ends at {end}, but message {number} has {len(content)} characters.")
            if not content[start:end].strip():
                raise ValueError(f"Chunk {count} is empty: characters {start} to {end} are white space.")
        return tuple((number, *pair) for pair in self.offsets)


@dataclass(frozen=True)
class Messages(Chunks):
    """Each message of a role as one chunk: the results of tools, say.

    Args:
        role: whose messages.

    Raises:
        ValueError: when it is used: no message of that role, or an empty one.

    >>> Messages("system").texts([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    ('Be brief.',)
    """

    role: str

    def places(self, chat: Chat) -> tuple[Place, ...]:
        found = [(n, m["content"]) for n, m in enumerate(chat) if m["role"] == self.role]
        if not found or not all(content.strip() for _, content in found):
            told = "is empty" if found else "isn't there"
            raise ValueError(
                f"A message of the role {self.role!r} {told}; the roles are {', '.join(m['role'] for m in chat)}."
            )
        return tuple((n, 0, len(content)) for n, content in found)


@dataclass(frozen=True)
class Chunk(Span):
    """All slots of one chunk.

    Args:
        chunks: how chunks are found.
        number: which, counted from 0, negative ones from the last.

    >>> Chunk(Delimited("."), 1).find(CachedPrompt((5, 6, 7), ("Snow.", " Coal", ".")))
    (1, 2)
    """

    chunks: Chunks
    number: int

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        found = self.chunks.find(prompt)
        return found[self.chunks.index(self.number, len(found))]


@dataclass(frozen=True)
class ChunkEnds(Span):
    """The last slot of one chunk, or of each.

    Args:
        chunks: how chunks are found.
        number: which, counted from 0, negative ones from the last; `None`: each.

    >>> ChunkEnds(Delimited(".")).find(CachedPrompt((5, 6, 7), ("Snow.", " Coal", ".")))
    (0, 2)
    """

    chunks: Chunks
    number: int | None = None

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
    >>> found = find_chunks(kv.load("tiny"), "Tom has 2 pens. Ann has 3 pens. How many?", Delimited(". ", before="How"))
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


def _message(chat: Chat, wanted: Message | None) -> int:
    """The number of the message that is meant."""
    wanted = wanted or Message()
    own = [n for n, message in enumerate(chat) if wanted.role is None or message["role"] == wanted.role]
    if not -len(own) <= wanted.number < len(own):
        raise ValueError(f"{wanted!r} isn't in a chat of {len(chat)} messages; choose one that every chat has.")
    return own[wanted.number]


def _only(content: str, words: str) -> int:
    """Where words stand that may stand in a message once only."""
    n = content.count(words)
    if n != 1:
        raise ValueError(
            f"The words {words!r} stand in the message {n} times, so they don't say where its chunks are; choose words"
            " that stand there once."
        )
    return content.index(words)
