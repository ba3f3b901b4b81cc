"""An offset token other than the run's, so that several can be compared in one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..models.tokens import offset_token
from .base import Intervention


@dataclass(frozen=True)
class OtherOffset(Intervention):
    """The baseline after another offset token; with `Together`, a steering that is read through it.

    Args:
        offset: a text that is one token, or an id.

    Example:
        >>> import kvsteer_lab as kv
        >>> texts = kv.generate(kv.load("tiny"), "How many?", OtherOffset("."), generation={"max_new_tokens": 4})
        >>> texts[0].intervention
        "offset '.'"
    """

    offset: str | int

    @property
    def label(self) -> str:
        return f"offset {self.offset!r}"

    def offset_id(self, tokenizer: Any, offset: int | None) -> int | None:
        return offset_token(tokenizer, self.offset)
