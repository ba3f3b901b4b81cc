"""The operators of cache edits: `Map`, `Replace`, `Erase` and `Insert`; `Add`, the paper's, lies in `addition`.

Each says what becomes of the slots of a span. They compose in order: what one leaves behind the next one finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .._util.later import LATER
from ..models.attention import query_heads
from ..models.model import Model
from .banks import Bank, check_bank
from .base import CacheEdit, CacheShape, SlotEdit, Slotted
from .gates import Gate, check_gate, check_gate_fits
from .given import check_there, float_array, whole_numbers
from .hiding import HiddenSlot
from .spans import Slots
from .spans.spans import CachedPrompt

Part = Literal["both", "keys", "values"]


@dataclass(frozen=True)
class Map(SlotEdit):
    """x -> A x + b on every slot of the span, keys after RoPE.

    Args:
        matrix: A: a number, or a matrix `[head_dim, head_dim]`, `[kv_heads, head_dim, head_dim]` or `[layers, kv_heads,
            head_dim, head_dim]`.
        shift: b, `[layers, kv_heads, head_dim]`; `None`: none.
        part: whether keys, values or both are mapped.
        span, layers, heads, when, every: as in every operator; no span: the last slot.

    Raises:
        ValueError: NaN or infinity in A or b, or another `part`.

    >>> Map(0.5, part="values").matrix
    0.5
    """

    matrix: float | Float[Tensor, "*shape"]
    shift: Float[Tensor, "layers kv_heads head_dim"] | None = None
    part: Part = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_part(self.part)
        needs = "a number, or a matrix [..., head_dim, head_dim]"
        given = (
            self.matrix if isinstance(self.matrix, int | float) else float_array("The map's matrix", self.matrix, needs)
        )
        object.__setattr__(self, "matrix", given.item() if isinstance(given, Tensor) and given.ndim == 0 else given)
        if self.shift is not None:
            shift = float_array("The map's shift", self.shift, "an array [layers, kv_heads, head_dim]")
            object.__setattr__(self, "shift", shift)
        for name, part in (("matrix", self.matrix), ("shift", self.shift)):
            if part is not None and not torch.as_tensor(part).isfinite().all():
                raise ValueError(f"The map's {name} holds NaN or infinity; check how it was made.")

    def check_shape(self, shape: CacheShape) -> None:
        super().check_shape(shape)
        full = (*shape.vectors, shape.head_dim)
        for name, given, wanted in (("matrix", self.matrix, full), ("shift", self.shift, full[:3])):
            if given is None or not isinstance(given, Tensor):
                continue
            partial = name == "matrix" and given.ndim in (2, 3, 4)
            if tuple(given.shape) != (wanted[4 - given.ndim :] if partial else wanted):
                raise ValueError(f"The map's {name} is {tuple(given.shape)}, but {shape.name} needs {wanted}.")

    def changed(self, layer: int, keys: Slotted, values: Slotted) -> tuple[Slotted, Slotted]:
        return (
            self._mapped(layer, keys) if self.part != "values" else keys,
            self._mapped(layer, values) if self.part != "keys" else values,
        )

    def _mapped(self, layer: int, old: Slotted) -> Slotted:
        if isinstance(self.matrix, Tensor):
            matrix = (self.matrix[layer] if self.matrix.ndim == 4 else self.matrix).to(old)
            new = old @ matrix.transpose(-1, -2)
        else:
            new = old * self.matrix
        return new if self.shift is None else new + self.shift[layer][:, None].to(old)


@dataclass(frozen=True)
class Replace(SlotEdit):
    """Put a bank's keys and values in the place of the span's.

    Args:
        bank: as many slots as the span has, or a single one for each of them. Keys are put as they are: with
            `bank.at(...)` they are rotated to other positions first.
        part: whether keys, values or both are replaced.
        span, layers, heads, when, every: as in every operator; no span: the last slot.

    Raises:
        ValueError: another `part`, or `every` with a bank of several slots; when it is used: a bank that doesn't fit
            the model or the span.

    >>> import kvsteer_lab as kv
    >>> len(Replace(Bank.zeros(kv.load("tiny")), span=kv.spans.Everything()).bank)
    1
    """

    bank: Bank
    part: Part = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_part(self.part)
        check_bank(self.bank)
        if self.every and len(self.bank) != 1:
            raise ValueError(f"every=True replaces each new slot by one, but the bank has {len(self.bank)}; take one.")

    def check_shape(self, shape: CacheShape) -> None:
        super().check_shape(shape)
        self.bank.check(shape)

    def resolve(self, prompt: CachedPrompt, row: int) -> tuple[SlotEdit, ...]:
        (found,) = super().resolve(prompt, row)
        n = len(found.backs(len(prompt.ids)))
        if len(self.bank) not in (1, n):
            raise ValueError(
                f"The bank has {len(self.bank)} slots, but the span has {n} in prompt {row}; take one of {n}, or one"
                " for all."
            )
        return (found,)

    def changed(self, layer: int, keys: Slotted, values: Slotted) -> tuple[Slotted, Slotted]:
        new = (part[layer][:, -keys.shape[1] :].to(keys).expand_as(keys) for part in (self.bank.keys, self.bank.values))
        new_keys, new_values = new
        return new_keys if self.part != "values" else keys, new_values if self.part != "keys" else values


@dataclass(frozen=True)
class Erase(SlotEdit):
    """Hide a span from everything that is read after the cache; positions stay. For one slot it is `kv.HideSlot`.

    Args:
        span, layers, heads, when: as in every operator, heads being KV heads: all query heads that read them are
            barred. A gate costs another prefill of each prompt.

    Raises:
        ValueError: `every`, for nothing could be read after the cache.

    >>> import kvsteer_lab as kv
    >>> [hidden.slot for hidden in Erase(span=kv.spans.Slots(0, 2)).hidden_slots(kv.load("tiny"))]
    [0, 2]
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every:
            raise ValueError(
                "Erase takes no every=True: new tokens that nothing may read leave nothing to read; name a span."
            )

    def check(self, model: Model) -> None:
        super().check(model)
        query_heads(model.hf)

    def hidden_slots(self, model: Model) -> list[HiddenSlot]:
        """What attention is told; the span must have been looked up.

        Args:
            model: the model that runs.
        """
        n = query_heads(model.hf)
        barred = torch.zeros(model.n_layers, n, dtype=torch.bool)
        group = torch.arange(n) // (n // model.n_kv_heads)
        read = torch.isin(group, torch.tensor(range(model.n_kv_heads) if self.heads is None else self.heads))
        barred[range(model.n_layers) if self.layers is None else list(self.layers)] = read
        slots = self.span.numbers if isinstance(self.span, Slots) else (-1,)
        return [HiddenSlot(barred, slot) for slot in slots]


@dataclass(frozen=True)
class Insert(CacheEdit):
    """Put a bank before the prompt: the prompt's tokens read it, and so does all that follows (in chosen layers: after
    Memory Inception, Liu et al. 2026).

    The prompt's positions go on behind the bank's slots, as behind a real prefix. A bank of a prefix's whole cache is
    that prefix; its keys pretend to have the positions that they are rotated to.

    Args:
        bank: keys and values; several inserts stand in their order.
        layers: in which layers it can be read; `None`: in all. In the others attention is barred from it.
        when: a gate, shown the prompt's last slot as it is without the bank; it costs another prefill of each prompt.
        weight: how many times the bank counts in attention, which need be no whole number: its logarithm is added to
            the scores of the bank's slots. 2 is the same bank twice, with the prompt's positions as behind one; 0 is no
            bank, and the less it weighs the nearer it is to that, except where positions are learned, for the prompt's
            are behind the bank's at any other weight. Cost: with another weight than 1, or with layers, attention is
            transformers' eager one.

    Raises:
        ValueError: layers that aren't whole numbers, a gate that is none, or a weight that is negative or not finite.

    >>> import kvsteer_lab as kv
    >>> len(Insert(Bank.zeros(kv.load("tiny"), 3), layers=[1, 2]).bank)
    3
    """

    bank: Bank = field(repr=False)
    layers: Sequence[int] | None = field(default=None, metadata=LATER)
    when: Gate | None = field(default=None, metadata=LATER)
    weight: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", whole_numbers("layers", self.layers))
        check_gate(self.when)
        check_bank(self.bank)
        if not isinstance(self.weight, Real) or not 0 <= self.weight < math.inf:
            raise ValueError(
                f"The bank's weight is {self.weight!r}; it counts slots, so it must be finite and at least 0."
            )

    def check_shape(self, shape: CacheShape) -> None:
        self.bank.check(shape)
        check_there("layer", self.layers, shape.n_layers, shape.name)
        check_gate_fits(self.when, shape.vectors, shape.name)

    def check(self, model: Model) -> None:
        super().check(model)
        if self.layers is not None or self.weight not in (0, 1):
            query_heads(model.hf)


def _check_part(part: str) -> None:
    if part not in ("both", "keys", "values"):
        raise ValueError(f"part={part!r} must be 'keys', 'values' or 'both'.")
