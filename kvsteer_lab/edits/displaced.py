"""A part, or a turned copy, of what another edit does: what scaled edits and their random controls are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.model import Model
from .base import CacheEdit, CacheShape, SlotEdit, Slotted
from .spans.spans import CachedPrompt

Edit = TypeVar("Edit", bound=CacheEdit)


@dataclass(frozen=True, init=False)
class Displaced(SlotEdit):
    """x -> x + s Q (f(x) - x): where another edit f would take a slot, s times as far, in a direction turned by Q, a
    random rotation for each layer, KV head and part (keys, values), which keeps the length of every displacement.

    Args:
        edit: f; its span, layers, heads and gate are kept.
        factor: s.
        seed: of Q; `None`: no rotation.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> half = Displaced(kv.edits.Map(0.0), factor=0.5)
    >>> half.changed(0, torch.ones(1, 1, 2), torch.ones(1, 1, 2))[1].tolist()
    [[[0.5, 0.5]]]
    """

    edit: SlotEdit
    factor: float = 1.0
    seed: int | None = None

    def __init__(self, edit: SlotEdit, factor: float = 1.0, seed: int | None = None) -> None:
        given = dict(edit=edit, factor=factor, seed=seed)
        given |= {name: getattr(edit, name) for name in ("span", "layers", "heads", "when", "every")}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def check(self, model: Model) -> None:
        self.edit.check(model)

    def check_shape(self, shape: CacheShape) -> None:
        self.edit.check_shape(shape)

    def acts_on(self, layer: int) -> bool:
        return self.edit.acts_on(layer)

    def resolve(self, prompt: CachedPrompt, row: int) -> tuple[SlotEdit, ...]:
        return tuple(Displaced(edit, self.factor, self.seed) for edit in self.edit.resolve(prompt, row))

    def backs(self, length: int) -> tuple[int, ...]:
        return self.edit.backs(length)

    def changed(self, layer: int, keys: Slotted, values: Slotted) -> tuple[Slotted, Slotted]:
        new = self.edit.changed(layer, keys, values)
        return self._moved(2 * layer, keys, new[0]), self._moved(2 * layer + 1, values, new[1])

    def _moved(self, number: int, old: Slotted, new: Slotted) -> Slotted:
        step = self.factor * (new - old)
        if self.seed is not None:
            step = step @ _rotations(self.seed, number, old.shape[0], old.shape[2]).to(step)
        return old + step


def ungated(edit: Edit) -> Edit:
    """The same edit with its gate open.

    >>> import kvsteer_lab as kv
    >>> ungated(kv.edits.Map(0.5, when=lambda last: False)).when is None
    True
    """
    if isinstance(edit, Displaced):
        return Displaced(ungated(edit.edit), edit.factor, edit.seed)  # type: ignore[return-value]
    return replace(edit, when=None)  # type: ignore[type-var]  # operators are dataclasses


def once(edit: SlotEdit) -> SlotEdit:
    """The same edit of the prompt alone, and with its gate open.

    >>> import kvsteer_lab as kv
    >>> once(kv.edits.Map(0.5, every=True)).every
    False
    """
    if isinstance(edit, Displaced):
        return Displaced(once(edit.edit), edit.factor, edit.seed)
    return replace(edit, when=None, every=False)


@lru_cache(maxsize=1024)
def _rotations(seed: int, number: int, heads: int, width: int) -> Float[Tensor, "kv_heads head_dim head_dim"]:
    generator = torch.Generator().manual_seed(seed * 4096 + number)
    noise = torch.randn(heads, width, width, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(noise)
    return (q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]).float()  # every rotation is as likely as any other
