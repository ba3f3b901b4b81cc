"""The hooks that an intervention may override on the one path from a chat to a text. It can change nothing else, so
every comparison is between runs that differ in what the hooks say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..edits.base import CacheEdit
from ..edits.hiding import HiddenSlot
from ..edits.residual import ResidualDelta
from ..models.model import Model
from ..tasks.base import Chat


class Intervention:
    """A method to compare. Every hook's default is to change nothing; a new method overrides the one it needs.

    The path: the chat is rendered and tokenised; its cache is filled, the residual stream edited meanwhile; the deltas
    are added to the cache; the tail (the offset token, unless the method says otherwise) is read from the edited cache,
    and decoding begins. Methods that add vectors at a coefficient subclass `kv.Steering`.

    Example:
        >>> from dataclasses import dataclass
        >>> import kvsteer_lab as kv
        >>> @dataclass(frozen=True)
        ... class Polite(kv.Intervention):
        ...     label = "polite"
        ...
        ...     def chat(self, chat):
        ...         return [*chat[:-1], {**chat[-1], "content": f"Please. {chat[-1]['content']}"}]
        >>> methods = [kv.Nothing(), Polite()]
        >>> texts = kv.generate(kv.load("tiny"), "How many?", methods, generation={"max_new_tokens": 4})
        >>> [text.intervention for text in texts]
        ['baseline', 'polite']
    """

    @property
    def label(self) -> str:
        """The name in tables and figures; distinct among the interventions of one run."""
        raise TypeError(f"{type(self).__name__} has no label; define one.")

    @property
    def control_of(self) -> str | None:
        """For a control, the label of what it controls."""
        return None

    @property
    def control_kind(self) -> str | None:
        """For a control, what is random about it ("random", "label shuffle", ...); controls of one kind are summarised
        together.
        """
        return None

    def check(self, model: Model) -> None:
        """Raise a `ValueError` if this can't be done on `model`, before anything is computed."""

    def chat(self, chat: Chat) -> Chat:
        """The conversation to render instead of `chat`."""
        return chat

    def offset_id(self, tokenizer: Any, offset: int | None) -> int | None:
        """The offset token of this method: `offset`, the run's, unless the method needs another one.

        Args:
            tokenizer: the model's.
            offset: the id of the run's offset token; `None`: none.
        """
        return offset

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        """Token ids put between the prompt's last cached slot and the first generated token: the offset token, then
        the response prefill.

        Args:
            tokenizer: the model's.
            offset: from `offset_id`.
        """
        return [] if offset is None else [offset]

    @property
    def sets_tail(self) -> bool:
        """Whether the method has a tail of its own. Of the parts of `Together` only one can."""
        return type(self).tail is not Intervention.tail

    def deltas(self, model: Model, lengths: Sequence[int]) -> list[tuple[CacheEdit, ...]]:
        """What is done to the cache of each row, in order: additions, or any operator of `kv.edits`.

        Args:
            model: the model that runs.
            lengths: per row, how many tokens its cache holds.
        """
        return [()] * len(lengths)

    def residuals(self, model: Model, lengths: Sequence[int]) -> list[tuple[ResidualDelta, ...]]:
        """What is added to the residual stream of each row, while it is prefilled and decoded.

        Rows that get the same object share a prompt's prefill.

        Args:
            model: the model that runs.
            lengths: per row, how many tokens its prompt has.
        """
        return [()] * len(lengths)

    def hidden(self, model: Model, lengths: Sequence[int]) -> list[tuple[HiddenSlot, ...]]:
        """The slots of each row that the tokens after the cache don't read.

        Args:
            model: the model that runs.
            lengths: per row, how many tokens its cache holds.
        """
        return [()] * len(lengths)

    @property
    def uses_cache(self) -> bool:
        """Whether decoding reads the cache; otherwise every token is computed from all tokens before it, each time
        anew.
        """
        return True


@dataclass(frozen=True)
class Nothing(Intervention):
    """The baseline: the same path, offset token included, with nothing added.

    Example:
        >>> Nothing().label
        'baseline'
    """

    @property
    def label(self) -> str:
        return "baseline"


@dataclass(frozen=True)
class NoOffset(Intervention):
    """The model as it is, without the offset token: shows what the offset alone does.

    Example:
        >>> NoOffset().label, NoOffset().tail(None, offset=5)
        ('no offset', [])
    """

    @property
    def label(self) -> str:
        return "no offset"

    def tail(self, tokenizer: Any, offset: int | None) -> list[int]:
        return []
