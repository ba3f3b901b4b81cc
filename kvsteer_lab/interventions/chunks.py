"""The chat without one of its chunks, read from the start: what erasing the chunk from a cache is held against."""

from __future__ import annotations

from dataclasses import dataclass

from ..edits.spans import Chunks
from ..tasks.base import Chat
from .base import Intervention


@dataclass(frozen=True)
class WithoutChunk(Intervention):
    """Ask without one chunk of the chat. Nothing that comes later has read it, and what comes later moves up.

    Args:
        chunks: how chunks are found.
        number: which, counted from 0, negative ones from the last.
        name: the label, if it isn't to be made from the number.

    Raises:
        ValueError: when it is used: chunks that aren't found, or no chunk of that number.

    Example:
        >>> import kvsteer_lab as kv
        >>> chat = [{"role": "user", "content": "Snow is cold.\\nCoal is black.\\nWhy?"}]
        >>> kv.WithoutChunk(kv.spans.Delimited("\\n", before="Why"), 0).chat(chat)
        [{'role': 'user', 'content': 'Coal is black.\\nWhy?'}]
    """

    chunks: Chunks
    number: int
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or f"without chunk {self.number}"

    def chat(self, chat: Chat) -> Chat:
        return self.chunks.without(chat, self.number)
