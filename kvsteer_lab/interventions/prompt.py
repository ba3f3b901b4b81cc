"""Interventions that only add words: an instruction to think, worked examples, or the answer's first words."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..models.prompts import encode
from ..tasks.base import Chat, Message, Task
from ..vectors.shots import put_before, shots_chat, worked
from .base import Intervention

STEP_BY_STEP = "Let's think step by step."


@dataclass(frozen=True)
class CoTPrompt(Intervention):
    """Chain-of-thought prompting: an instruction after the user's last message (Kojima et al. 2022).

    Args:
        text: the instruction.
        name: the label, if "CoT prompt" won't do.
    """

    text: str = STEP_BY_STEP
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or "CoT prompt"

    def chat(self, chat: Chat) -> Chat:
        *earlier, last = chat
        return [*earlier, {**last, "content": f"{last['content']}\n{self.text}"}]


@dataclass(frozen=True)
class ForcedPrefix(Intervention):
    """Put the answer's first words into an unsteered model's mouth.

    The control to beat: if forcing a style's first token does all that steering does, steering may do no more than
    choose that token. The words follow the offset token; they count as part of the answer, not as generated.

    Args:
        text: the words.
        name: the label, if the words themselves won't do.

    Raises:
        ValueError: no text; when it is used.
    """

    text: str
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or f"forced {self.text!r}"

    @classmethod
    def of_style(cls, task: Task, tokenizer: Any, style: str, tokens: int = 1) -> ForcedPrefix:
        """The words that most of a task's replies in `style` begin with, cut after `tokens` tokens.

        Args:
            task: whose replies are looked at: up to 200 of its extraction split.
            tokenizer: the model's.
            style: the style.
            tokens: how many tokens are forced.

        Raises:
            ValueError: fewer than one token, or no replies in that style.
        """
        if tokens < 1:
            raise ValueError(f"A forced prefix needs at least 1 token, not {tokens}.")
        shown = worked(task, (style,), seed=0)[:200]
        openings = Counter(tuple(encode(tokenizer, w.replies[style])[:tokens]) for w in shown)
        return cls(tokenizer.decode(openings.most_common(1)[0][0]))

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        if not self.text:
            raise ValueError("A forced prefix needs some text.")
        return super().tail(tokenizer, offset) + encode(tokenizer, self.text)


@dataclass(frozen=True)
class CoTPrefix(Intervention):
    """Chain-of-thought prompting as the paper does it: the assistant's first words, not the user's last (Belitsky et
    al. 2025).

    Args:
        text: the words; they count as part of the answer.
        name: the label, if "CoT prefix" won't do.
    """

    text: str = STEP_BY_STEP
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or "CoT prefix"

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        return ForcedPrefix(self.text).tail(tokenizer, offset)


@dataclass(frozen=True)
class FewShot(Intervention):
    """Worked examples before the question, the same ones before every question.

    Args:
        examples: messages of the user and the assistant in turn, as in a chat.
        name: the label, if the number of examples won't do.

    Raises:
        ValueError: no examples, or messages that don't alternate.
    """

    examples: tuple[Message, ...] = field(repr=False)
    name: str | None = None

    def __post_init__(self) -> None:
        roles = [message.get("role") for message in self.examples]
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(
                "Few-shot examples are messages of the user and the assistant in turn, beginning with the user; pass at"
                " least one of each."
            )

    @property
    def label(self) -> str:
        return self.name or f"{len(self.examples) // 2}-shot"

    @classmethod
    def of_style(cls, task: Task, style: str, shots: int = 5, seed: int = 0) -> FewShot:
        """`shots` examples from a task's extraction split, answered in `style`.

        Args:
            task: whose replies are shown.
            style: the style.
            shots: how many.
            seed: which.

        Raises:
            ValueError: fewer than one example, or fewer replies in that style than asked for.
        """
        if shots < 1:
            raise ValueError(f"shots must be at least 1, not {shots}.")
        pool = worked(task, (style,), seed)
        if shots > len(pool):
            raise ValueError(
                f"Task {task.name!r} has {len(pool)} questions for extraction with replies in style {style!r}, fewer"
                f" than {shots}; ask for fewer."
            )
        chosen = random.Random(seed).sample(pool, shots)
        return cls(tuple(shots_chat(task, chosen, style)), f"{shots}-shot {style}")

    def chat(self, chat: Chat) -> Chat:
        return put_before(self.examples, chat)
