"""Several interventions as one: steering on top of a prompt, say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..edits.cache import CacheDelta
from ..edits.hiding import HiddenSlot
from ..edits.residual import ResidualDelta
from ..models.model import Model
from ..tasks.base import Chat
from .base import Intervention


@dataclass(frozen=True, init=False)
class Together(Intervention):
    """All of `parts` at once: chats are changed in their order, and what they add to the cache and to the residual
    stream is added up; what one hides is hidden.

    With a control among the parts, the whole is a control of the same parts with what it controls in its place.

    Args:
        parts: at least two; at most one of them may set the tail (what is read before the first generated token).

    Raises:
        ValueError: fewer than two, something that is no intervention, or two that set the tail.
    """

    parts: tuple[Intervention, ...]

    def __init__(self, *parts: Intervention) -> None:
        wrong = next((part for part in parts if not isinstance(part, Intervention)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is no intervention; use kv.CacheSteering, kv.CoTPrompt and the like.")
        if len(parts) < 2:
            raise ValueError("Together needs at least two interventions; a single one can be used as it is.")
        flat = tuple(inner for part in parts for inner in (part.parts if isinstance(part, Together) else (part,)))
        setters = [part.label for part in flat if part.sets_tail]
        if len(setters) > 1:
            raise ValueError(
                f"{setters[0]!r} and {setters[1]!r} both set what is read before the answer; keep one of them."
            )
        object.__setattr__(self, "parts", flat)

    @property
    def label(self) -> str:
        return " + ".join(part.label for part in self.parts)

    @property
    def control_of(self) -> str | None:
        return " + ".join(part.control_of or part.label for part in self.parts) if self.control_kind else None

    @property
    def control_kind(self) -> str | None:
        return " + ".join(kind for part in self.parts if (kind := part.control_kind)) or None

    def check(self, model: Model) -> None:
        for part in self.parts:
            part.check(model)

    def chat(self, chat: Chat) -> Chat:
        for part in self.parts:
            chat = part.chat(chat)
        return chat

    def offset_id(self, tokenizer: Any, offset: int | None) -> int | None:
        own = {found for part in self.parts if (found := part.offset_id(tokenizer, offset)) != offset}
        if len(own) > 1:
            raise ValueError(f"The parts of {self.label!r} ask for different offset tokens; give them the same one.")
        return own.pop() if own else offset

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        setter = next((part for part in self.parts if part.sets_tail), self.parts[0])
        return setter.tail(tokenizer, offset)

    def deltas(self, model: Model, lengths: Sequence[int]) -> list[tuple[CacheDelta, ...]]:
        by_part = [part.deltas(model, lengths) for part in self.parts]
        return [tuple(delta for edits in row for delta in edits) for row in zip(*by_part, strict=True)]

    def residuals(self, model: Model, lengths: Sequence[int]) -> list[tuple[ResidualDelta, ...]]:
        by_part = [part.residuals(model, lengths) for part in self.parts]
        return [tuple(delta for edits in row for delta in edits) for row in zip(*by_part, strict=True)]

    def hidden(self, model: Model, lengths: Sequence[int]) -> list[tuple[HiddenSlot, ...]]:
        by_part = [part.hidden(model, lengths) for part in self.parts]
        return [tuple(slot for slots in row for slot in slots) for row in zip(*by_part, strict=True)]

    @property
    def uses_cache(self) -> bool:
        return all(part.uses_cache for part in self.parts)
