"""Several interventions as one: a steering on top of a prompt, for example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..edits.base import CacheEdit
from ..edits.hiding import HiddenSlot
from ..edits.residual import ResidualDelta
from ..models.model import Model
from ..tasks.base import Chat
from .base import Intervention
from .prompt import FewShot

_ASKED = -1
"""An offset token that no model has: a part that gives it back asks for no offset token of its own."""


@dataclass(frozen=True, init=False)
class Together(Intervention):
    """All of `parts` at once: what they add to the cache and to the residual stream is added up, what one hides is
    hidden, and each changes the chat that the ones before it have changed.

    Few-shot examples stand in the order of their parts. Apart from that, and from two instructions after the same
    message, the order of the parts doesn't matter. With a control among the parts, the whole is a control of the same
    parts with what it controls in its place.

    Args:
        parts: at least two; at most one of them may set the tail (what is read before the first generated token).

    Raises:
        ValueError: fewer than two, something that isn't an intervention, or two that set the tail. When it is used:
            parts that ask for different offset tokens.

    Example:
        >>> import kvsteer_lab as kv
        >>> both = kv.Together(kv.CoTPrompt(), kv.ForcedPrefix("Step 1"))
        >>> both.label
        "CoT prompt + forced 'Step 1'"
    """

    parts: tuple[Intervention, ...]

    def __init__(self, *parts: Intervention) -> None:
        wrong = next((part for part in parts if not isinstance(part, Intervention)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is not an intervention; use kv.CacheSteering, kv.CoTPrompt and the like.")
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
        examples = [part for part in self.parts if isinstance(part, FewShot)]
        others = [part for part in self.parts if not isinstance(part, FewShot)]
        for part in (*reversed(examples), *others):  # examples go before all that is there
            chat = part.chat(chat)
        return chat

    def offset_id(self, tokenizer: Any, offset: int | None) -> int | None:
        asking = [part for part in self.parts if part.offset_id(tokenizer, _ASKED) != _ASKED]
        own = {part.offset_id(tokenizer, offset) for part in asking}
        if len(own) > 1:
            named = " and ".join(repr(part.label) for part in asking)
            raise ValueError(f"{named} ask for different offset tokens; give them the same one.")
        return own.pop() if own else offset

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        setter = next((part for part in self.parts if part.sets_tail), self.parts[0])
        return setter.tail(tokenizer, offset)

    @property
    def sets_tail(self) -> bool:
        return any(part.sets_tail for part in self.parts)

    def deltas(self, model: Model, lengths: Sequence[int]) -> list[tuple[CacheEdit, ...]]:
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
