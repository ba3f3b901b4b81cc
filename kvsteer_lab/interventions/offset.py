"""Another offset token than the run's, so that several can be compared in one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..models.prompts import offset_token
from .base import Intervention


@dataclass(frozen=True)
class OtherOffset(Intervention):
    """The baseline behind another offset token; with `Together`, a steering behind it.

    Args:
        offset: a text that is one token, or an id.
    """

    offset: str | int

    @property
    def label(self) -> str:
        return f"offset {self.offset!r}"

    def offset_id(self, tokenizer: Any, offset: int | None) -> int | None:
        return offset_token(tokenizer, self.offset)
