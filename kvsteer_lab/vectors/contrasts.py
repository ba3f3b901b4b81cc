"""Chats that differ in an instruction or in a persona: what `ContrastiveSet`'s builders render."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..models.prompts import render
from ..models.tokens import missing_bos
from ..tasks.base import Chat, same_text

PERSONA = "{persona}"
"""Where a template has the persona."""
ACT_AS = "Act as if you're extremely {persona}."
"""repeng's template."""


class Contrast(NamedTuple):
    """One pair, before it is rendered."""

    positive: Chat
    negative: Chat


def with_system(tokenizer: Any, text: str, chat: Chat) -> Chat:
    """A chat with a system message before it; where the template has no such role, its text opens the first message.

    Args:
        tokenizer: with a chat template.
        text: the system message.
        chat: without a system message of its own.

    Returns:
        A new chat.

    >>> import kvsteer_lab as kv
    >>> with_system(kv.load("tiny").tokenizer, "Be brief.", [{"role": "user", "content": "How many?"}])[0]
    {'role': 'system', 'content': 'Be brief.'}
    """
    asked: Chat = [{"role": "system", "content": text}, *chat]
    try:
        # A template may also write nothing for a role that it doesn't know.
        if text in render(tokenizer, asked[:2]):
            return asked
    except ValueError:
        pass
    return [{**chat[0], "content": f"{text}\n\n{chat[0]['content']}"}, *chat[1:]]


def from_instructions(
    tokenizer: Any, positive: Sequence[str], negative: Sequence[str], questions: Sequence[str]
) -> list[Contrast]:
    """Every question under every pair of system messages.

    Args:
        tokenizer: with a chat template.
        positive, negative: the system messages, pair by pair.
        questions: what the user asks; the last part of every prompt.
    """
    return [
        Contrast(*(with_system(tokenizer, said, [{"role": "user", "content": question}]) for said in (p, n)))
        for question in questions
        for p, n in zip(positive, negative, strict=True)
    ]


def opened(tokenizer: Any, instruction: str, opening: str) -> str:
    """An instruction, and a reply that has been begun: with the chat template, or without one as plain text behind the
    tokenizer's own beginning-of-text token, where it puts one.

    Args:
        tokenizer: with or without a chat template.
        instruction: the user's message.
        opening: the reply's first words; white space at its ends is left out.

    Returns:
        The text to tokenise.

    >>> import kvsteer_lab as kv
    >>> opened(kv.load("tiny").tokenizer, "Be happy.", "I am")
    '<|im_start|>user\\nBe happy.<|im_end|>\\n<|im_start|>assistant\\nI am'
    """
    said = opening.strip()
    if getattr(tokenizer, "chat_template", None) is None:
        return f"{missing_bos(tokenizer, ()) or ''}{instruction.strip()} {said}"
    return render(tokenizer, [{"role": "user", "content": instruction}, {"role": "assistant", "content": said}])


def as_texts(given: str | Sequence[str], what: str) -> list[str]:
    """One text or several as a list, each listed once.

    Args:
        given: the texts.
        what: what one of them is, for messages.

    Returns:
        The distinct texts in order.

    Raises:
        ValueError: none, or something that isn't text.

    Warns:
        UserWarning: the same text listed twice, which would count for two.

    >>> as_texts("Why?", "question"), as_texts(["Why?", "How?"], "question")
    (['Why?'], ['Why?', 'How?'])
    """
    texts = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"A contrast needs at least one {what}, and each must be a text that says something.")
    kept: dict[str, str] = {}
    for text in texts:
        kept.setdefault(same_text(text), text)
    if len(kept) < len(texts):
        seen: set[str] = set()
        double = next(text for text in texts if same_text(text) in seen or seen.add(same_text(text)))  # type: ignore[func-returns-value]
        warnings.warn(
            f"The {what} {double!r} is listed twice; it is used once, so that it doesn't count for two.", stacklevel=3
        )
    return list(kept.values())


def sides(positive: str | Sequence[str], negative: str | Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """Both sides as lists of equal length, each pair listed once.

    Raises:
        ValueError: lists of different length, or what `as_texts` refuses.

    Warns:
        UserWarning: the same pair listed twice, which would count for two.

    >>> sides("happy", "sad", "persona")
    (['happy'], ['sad'])
    """
    both = [list(s) if isinstance(s, Iterable) and not isinstance(s, str) else [s] for s in (positive, negative)]
    for side in both:
        as_texts(list(dict.fromkeys(side)), what)
    if len(both[0]) != len(both[1]):
        raise ValueError(
            f"There are {len(both[0])} positive and {len(both[1])} negative {what}s; give them pair by pair."
        )
    pairs = list(dict.fromkeys(zip(*both, strict=True)))
    if len(pairs) < len(both[0]):
        warnings.warn(
            f"A pair of {what}s is listed twice; it is used once, so that it doesn't count for two.", stacklevel=3
        )
    return [p for p, _ in pairs], [n for _, n in pairs]


def fill(template: str, persona: str) -> str:
    """A template with a persona in it.

    Raises:
        ValueError: a template without `{persona}`.

    >>> fill(ACT_AS, "happy")
    "Act as if you're extremely happy."
    """
    if PERSONA not in template:
        raise ValueError(f"The template {template!r} has no {PERSONA}; write it where the persona belongs.")
    return template.replace(PERSONA, persona)
