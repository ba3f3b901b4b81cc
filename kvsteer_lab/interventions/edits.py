"""A program of cache edits as an intervention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..edits.cache import Add
from ..edits.operators import CacheEdit, Erase, Insert, SlotEdit
from ..models.model import Model
from .base import Intervention


@dataclass(frozen=True, init=False)
class CacheEdits(Intervention):
    """Edit the prompt's cache by operators, one after the other; the same in every prompt, each with its own slots.

    `Insert` acts before the prompt is read, all others on the cache that it leaves, and `Erase` on what is read
    afterwards.

    Args:
        edits: operators of `kv.edits`: `Add`, `Map`, `Replace`, `Insert`, `Erase`.
        name: the label, if it isn't to be made from the operators.

    Raises:
        ValueError: none, or something that isn't an operator. When it is used: one that doesn't fit the model, or a
            span that some prompt hasn't got.

    Example:
        >>> import kvsteer_lab as kv
        >>> halved = kv.CacheEdits([kv.edits.Map(0.5, part="values", span=kv.spans.Everything())])
        >>> halved.label
        'map values of everything'
        >>> kv.divergence(kv.load("tiny"), "2 + 3?", "The answer", halved).totals[0] > 0
        True
    """

    edits: tuple[CacheEdit, ...]
    name: str | None = None

    def __init__(self, edits: CacheEdit | Iterable[CacheEdit], name: str | None = None) -> None:
        given = (edits,) if isinstance(edits, CacheEdit) else tuple(edits)
        if not given:
            raise ValueError("There are no edits; pass at least one, or use kv.Nothing().")
        wrong = next((edit for edit in given if not isinstance(edit, CacheEdit)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is not a cache edit; use kv.edits.Add, Map, Replace, Insert or Erase.")
        object.__setattr__(self, "edits", given)
        object.__setattr__(self, "name", name)

    @property
    def label(self) -> str:
        return self.name or ", ".join(map(_described, self.edits))

    def check(self, model: Model) -> None:
        for edit in self.edits:
            edit.check(model)

    def deltas(self, model: Model, lengths: Sequence[int]) -> list[tuple[CacheEdit, ...]]:
        return [self.edits] * len(lengths)


def _described(edit: CacheEdit) -> str:
    if isinstance(edit, Insert):
        return f"insert {len(edit.bank)} slots"
    if not isinstance(edit, SlotEdit):
        return type(edit).__name__.lower()
    part = getattr(edit, "part", "both")
    parts = [type(edit).__name__.lower(), *([part] if part != "both" else [])]
    if edit.span is not None:
        said = repr(edit.span).removesuffix("()")
        parts.append(f"of {said.lower() if said.isidentifier() else said}")
    elif isinstance(edit, Add | Erase) and getattr(edit, "slot", -1) != -1:
        parts.append(f"at slot {edit.slot}")  # type: ignore[union-attr]
    parts += [f"layers={','.join(map(str, edit.layers))}"] if edit.layers is not None else []
    parts += [f"heads={','.join(map(str, edit.heads))}"] if edit.heads is not None else []
    return " ".join([*parts, *(["gated"] if edit.when is not None else [])])
