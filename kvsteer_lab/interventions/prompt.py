"""Interventions that only add words: an instruction to think, or the answer's first words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..prompts import encode
from ..tasks.base import Chat, Task
from .base import Intervention

STEP_BY_STEP = "Let's think step by step."


@dataclass(frozen=True)
class CoTPrompt(Intervention):
    """Chain-of-thought prompting: an instruction after the user's last message (Kojima et al. 2022)."""

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
    """

    text: str
    name: str | None = None

    @property
    def label(self) -> str:
        return self.name or f"forced {self.text!r}"

    @classmethod
    def of_style(cls, task: Task, tokenizer: Any, style: str, tokens: int = 1) -> ForcedPrefix:
        """The words that most of a task's replies in `style` begin with, cut after `tokens` tokens."""
        openings = Counter(tuple(encode(tokenizer, task.demonstrate(q, style))[:tokens]) for q in task.questions("extraction", 200, seed=0))
        return cls(tokenizer.decode(openings.most_common(1)[0][0]))

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        if not self.text:
            raise ValueError("A forced prefix needs some text.")
        return super().tail(tokenizer, offset) + encode(tokenizer, self.text)
