"""Chunkers: ways to say where the chunks of a chat are, by a delimiter, by characters or by message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index

from ...tasks.base import Chat
from .chunks import Chunks, Place
from .words import Message


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
        wrong = next((x for x in (self.delimiter, self.after, self.before) if not isinstance(x, str | None)), None)
        if wrong is not None:
            raise ValueError(f"A delimiter, and the words around chunks, must be texts; {wrong!r} is none.")
        _check_message(self.message)

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
        try:
            pairs = tuple((index(start), index(end)) for start, end in self.offsets)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The offsets {self.offsets!r} are no pairs of whole numbers; give the first character of each chunk"
                " and the one behind its last."
            ) from error
        object.__setattr__(self, "offsets", pairs)
        _check_message(self.message)
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
        ValueError: a role that is no text. When it is used: no message of that role, or an empty one.

    >>> Messages("system").texts([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    ('Be brief.',)
    """

    role: str

    def __post_init__(self) -> None:
        if not isinstance(self.role, str):
            raise ValueError(f"The role is {self.role!r}; it must be a text such as 'tool'.")

    def places(self, chat: Chat) -> tuple[Place, ...]:
        found = [(n, m["content"]) for n, m in enumerate(chat) if m["role"] == self.role]
        if not found or not all(content.strip() for _, content in found):
            told = "is empty" if found else "isn't there"
            raise ValueError(
                f"A message of the role {self.role!r} {told}; the roles are {', '.join(m['role'] for m in chat)}."
            )
        return tuple((n, 0, len(content)) for n, content in found)


def _check_message(message: Message | None) -> None:
    """Refuse what names no message."""
    if not isinstance(message, Message | None):
        raise ValueError(f"Chunks are looked for in a message such as kv.spans.Message('user'), not in {message!r}.")


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
