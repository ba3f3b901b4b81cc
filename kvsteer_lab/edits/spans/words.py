"""Spans by words: a text, a message, the ends of sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..given import whole_number
from .spans import CachedPrompt, Span

_SENTENCE = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)")


@dataclass(frozen=True)
class Text(Span):
    """The tokens of a text, wherever it stands in the prompt.

    Args:
        text: what is looked for, letter by letter. A token that holds only part of it belongs to it.
        number: which occurrence, counted from 0, negative ones from the last; `None`: all.

    Raises:
        ValueError: an empty text, or a number that isn't whole.

    >>> Text("answer").find(CachedPrompt((5, 6), ("The", " answer")))
    (1,)
    """

    text: str
    number: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text:
            raise ValueError(f"The span's text is {self.text!r}; write the words whose tokens are meant.")
        if self.number is not None:
            object.__setattr__(self, "number", whole_number("The occurrence's number", self.number))

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

    Raises:
        ValueError: a role that is no text, or a number that isn't whole.

    >>> chat = [{"role": "user", "content": "2 + 3?"}]
    >>> Message("user").find(CachedPrompt((1, 5, 6, 2), ("", "2 +", " 3?", ""), chat))
    (1, 2)
    """

    role: str | None = None
    number: int = -1

    def __post_init__(self) -> None:
        if not isinstance(self.role, str | None):
            raise ValueError(f"The role is {self.role!r}; it must be a text such as 'user', or None for all.")
        object.__setattr__(self, "number", whole_number("The message's number", self.number))

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

    Raises:
        ValueError: within something that is no span.

    >>> SentenceEnds().find(CachedPrompt((5, 6, 7, 8), ("It", " rains.", " Go", " home!")))
    (1, 3)
    """

    within: Span | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.within, Span | None):
            raise ValueError(f"Sentences are looked for within a span such as kv.spans.Message(), not {self.within!r}.")

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        ends = {slot for m in _SENTENCE.finditer(prompt.text) for slot in prompt.slots_of(m.end() - 1, m.end())}
        return tuple(sorted(ends if self.within is None else ends & set(self.within.find(prompt))))
