"""What all edits of a cache have in common: what they act on, and what a row makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from .._util.later import LATER
from ..models.model import Model
from .gates import Gate, check_gate, check_gate_fits
from .given import check_there, whole_numbers
from .spans import Slots, Span, find_slots
from .spans.spans import CachedPrompt

Slotted = Float[Tensor, "kv_heads slots head_dim"]


@dataclass(frozen=True)
class CacheShape:
    """What an edit must fit.

    Attributes:
        n_layers, n_kv_heads, head_dim: of a cache.
        name: whose it is, for errors.

    >>> CacheShape(4, 2, 32).vectors
    (4, 2, 32)
    """

    n_layers: int
    n_kv_heads: int
    head_dim: int
    name: str = "the cache"

    @property
    def vectors(self) -> tuple[int, int, int]:
        """The shape of a vector for each layer and KV head."""
        return self.n_layers, self.n_kv_heads, self.head_dim


class CacheEdit:
    """Something done to the cache of a row: the common name of all operators.

    >>> import kvsteer_lab as kv
    >>> isinstance(kv.edits.Map(0.5), CacheEdit)
    True
    """

    def check(self, model: Model) -> None:
        """Refuse an edit that doesn't fit a model.

        Raises:
            ValueError: layers, KV heads or shapes of another model, NaN or infinity.
        """
        self.check_shape(CacheShape(model.n_layers, model.n_kv_heads, model.head_dim, model.name))

    def check_shape(self, shape: CacheShape) -> None:
        """Refuse an edit that doesn't fit a cache.

        Raises:
            ValueError: as `check`.
        """

    def resolve(self, prompt: CachedPrompt, row: int) -> tuple[CacheEdit, ...]:
        """The same edit with its span looked up in one row, as edits whose slots are numbers.

        Raises:
            ValueError: the span isn't found.
        """
        return (self,)


@dataclass(frozen=True, kw_only=True)
class SlotEdit(CacheEdit):
    """What all operators on slots have in common.

    Attributes:
        span: which slots.
        layers: which layers, counted from 0; `None`: all.
        heads: which KV heads; `None`: all.
        when: a gate, shown the prompt's last slot; the edit is left out where it says no. `None`: always.
        every: whether what is read after the prompt is edited, too, each token's slot as it is cached: the offset
            token, response prefill, the reply. A token reads its own edited slot. Cost: the edit again in every pass,
            of one slot a layer.

    Raises:
        ValueError: layers or heads that aren't whole numbers, or a span or gate that is none. When it is used: layers
            or heads that the model hasn't got, or a span that isn't found.

    >>> import kvsteer_lab as kv
    >>> kv.edits.Map(0.5, layers=2, span=kv.spans.Slots(-1)).layers
    (2,)
    """

    span: Span | None = None
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    when: Gate | None = None
    every: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("layers", "heads"):
            object.__setattr__(self, name, whole_numbers(name, getattr(self, name)))
        if self.span is not None and not isinstance(self.span, Span):
            raise ValueError(f"The span is {self.span!r}; use kv.spans.Slots, kv.spans.Text and the like.")
        check_gate(self.when)

    def check_shape(self, shape: CacheShape) -> None:
        check_there("layer", self.layers, shape.n_layers, shape.name)
        check_there("KV head", self.heads, shape.n_kv_heads, shape.name)
        check_gate_fits(self.when, shape.vectors, shape.name)

    def acts_on(self, layer: int) -> bool:
        """Whether anything happens in a layer."""
        return self.layers is None or layer in self.layers

    def resolve(self, prompt: CachedPrompt, row: int) -> tuple[SlotEdit, ...]:
        return (replace(self, span=find_slots(self.span or Slots(-1), prompt, row), every=False),)

    def backs(self, length: int) -> tuple[int, ...]:
        """How far the slots of a resolved edit lie from the end of a row of `length` tokens; 1 is the last."""
        slots = find_slots(self.span or Slots(-1), CachedPrompt(tuple(range(length))), 0)
        return tuple(length - slot for slot in slots.numbers)

    def changed(self, layer: int, keys: Slotted, values: Slotted) -> tuple[Slotted, Slotted]:
        """What becomes of the span's slots, or of its last ones, where a sliding window has dropped the others.

        Args:
            layer: which layer they are of.
            keys, values: float32.
        """
        raise TypeError(f"{type(self).__name__} doesn't say what it does; define changed.")
