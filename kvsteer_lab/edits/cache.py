"""Editing a cache: one function applies all operators, in a trace and outside it. `Add`, the paper's, lies here.

What is added is summed in float32 and cast once to the cache's dtype. In half precision that has two ends: a large
value overflows, which is an error, and a small one is rounded away against the slot's own value, which is a warning;
`added_to` says what arrives.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from ..models.finite import NotFiniteError
from ..models.model import Model
from .base import CacheEdit, SlotEdit
from .program import plan as plan_edits
from .spans import find_slots
from .spans.spans import CachedPrompt

ROUNDING = 0.1
"""The relative error of what is added to a layer from which on a warning is given."""


class RoundingWarning(UserWarning):
    """The cache's dtype is too coarse for what is added to it."""


@dataclass(frozen=True)
class Add(SlotEdit):
    """x -> x + b: what is added to one slot of one row, or to every slot of a span; coefficients are folded in.

    Attributes:
        keys, values: float32 `[layers, kv_heads, head_dim]`.
        slot: index into the row's unpadded ids; negative counts from the end. A span takes its place.
        span, layers, heads, when, every: as in every operator.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> kv.edits.Add(torch.zeros(4, 2, 32), torch.ones(4, 2, 32)).slot
    -1
    """

    keys: Float[Tensor, "layers kv_heads head_dim"]
    values: Float[Tensor, "layers kv_heads head_dim"]
    slot: int = -1

    def check(self, model: Model) -> None:
        super().check(model)
        _check(self, (model.n_layers, model.n_kv_heads, model.head_dim), 0)

    @property
    def plain(self) -> bool:
        """Whether it is one slot, with all layers and heads, no gate, and once."""
        bounded = self.span is not None or self.layers is not None or self.heads is not None
        return not (bounded or self.when is not None or self.every)

    def resolve(self, prompt: CachedPrompt, row: int) -> tuple[Add, ...]:
        if self.plain:
            return (self,)
        keys, values = self.keys, self.values
        if self.layers is not None or self.heads is not None:
            mask = torch.zeros(*keys.shape[:2], 1)
            layers = list(range(keys.shape[0]) if self.layers is None else self.layers)
            mask[torch.tensor(layers)[:, None], list(range(keys.shape[1]) if self.heads is None else self.heads)] = 1
            keys, values = keys * mask, values * mask
        slots = (self.slot,) if self.span is None else find_slots(self.span, prompt, row).numbers
        return tuple(Add(keys, values, slot, when=self.when) for slot in slots)

    def acts_on(self, layer: int) -> bool:
        return bool(self.keys[layer].any() or self.values[layer].any())

    def backs(self, length: int) -> tuple[int, ...]:
        return (slot_from_end(self.slot, length, 0),)

    def changed(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return keys + self.keys[layer][:, None].to(keys), values + self.values[layer][:, None].to(values)


CacheDelta = Add
"""The name of `Add` in release 0.1."""

Deltas = Sequence[CacheEdit | Sequence[CacheEdit]]


def apply(
    cache: DynamicCache,
    deltas: Deltas,
    *,
    lengths: Sequence[int] | None = None,
    prompts: Sequence[CachedPrompt] | None = None,
) -> DynamicCache:
    """Edit each row's cache by its operators, in place and in their order, and touch nothing else.

    Where a row has plain additions only, the sum of a slot's deltas is made in float32 and cast once to the cache's
    dtype, on each layer's own device; so is the result of any other row's operators.

    Args:
        cache: as `model.prefill` returns it, rows left-padded.
        deltas: one a row: an operator, or a sequence of them (none, several slots, several at one slot).
        lengths: each row's number of real tokens; `None`: no row is padded.
        prompts: each row's cached tokens, for spans by text or message.

    Returns:
        The same cache. A `RoundingWarning` tells where its dtype takes up less than nine tenths of an edit.

    Raises:
        ValueError: not one entry a row, a shape that isn't the cache's, NaN or infinity (also what becomes infinite in
            the cache's dtype), a slot out of range, a span that isn't found, one that a sliding-window layer has
            already dropped, a gate that raises, or what acts before or after: `Insert`, `Erase`, `every`. Raised before
            anything is changed.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> model = kv.load("tiny")
    >>> cache = model.prefill("How many?")
    >>> before = cache.layers[0].values[0, :, -1].clone()
    >>> delta = kv.edits.Add(torch.zeros(4, 2, 32), torch.ones(4, 2, 32))
    >>> bool(torch.allclose(kv.edits.apply(cache, [delta]).layers[0].values[0, :, -1], before + 1))
    True
    """
    rows = [(d,) if isinstance(d, CacheEdit) else tuple(d) for d in deltas]
    first = cache.layers[0]
    n_rows, n_slots = first.keys.shape[0], cache.get_seq_length()
    if len(rows) != n_rows:
        raise ValueError(
            f"The cache has {n_rows} rows, but {len(rows)} rows of deltas were given; pass one entry a row (an empty"
            " tuple for none)."
        )
    lengths = [n_slots] * n_rows if lengths is None else list(lengths)
    shape = (len(cache.layers), first.keys.shape[1], first.keys.shape[3])
    known = prompts or [CachedPrompt(tuple(range(length))) for length in lengths]
    resolved = [_resolve(entries, known[row], row, shape) for row, entries in enumerate(rows)]
    # rows of plain additions alone are summed together; the others are edited step by step
    mixed = {
        row: edits
        for row, edits in enumerate(resolved)
        if not all(isinstance(edit, Add) and edit.when is None for edit in edits)
    }
    written = plan_edits(cache, mixed, lengths)
    summed: dict[tuple[int, int], Add] = {}
    for row, entries in enumerate(resolved):
        for delta in () if row in mixed else entries:
            assert isinstance(delta, Add)
            back = slot_from_end(delta.slot, lengths[row], row)
            _check(delta, shape, row)
            old = summed.get((row, back))
            summed[row, back] = (
                delta if old is None else Add(old.keys + delta.keys, old.values + delta.values, delta.slot)
            )
    by_slot: dict[int, list[int]] = defaultdict(list)
    for row, back in summed:
        by_slot[back].append(row)
    plan = []
    for back, at in by_slot.items():
        keys = torch.stack([summed[row, back].keys for row in at])
        values = torch.stack([summed[row, back].values for row in at])
        for index, layer in enumerate(cache.layers):
            if back <= layer.keys.shape[2]:
                plan.append((layer, back, at, keys[:, index], values[:, index]))
            elif keys[:, index].any() or values[:, index].any():
                raise ValueError(
                    f"Slot {-back} from the end lies outside layer {index}'s sliding window of"
                    f" {layer.keys.shape[2] + 1} tokens; leave that layer out (layers=...) or choose a later slot."
                )
    _check_sums(plan)
    for layer, back, at, keys, values in plan:
        where = torch.tensor(at, device=layer.keys.device)
        layer.keys[:, :, -back].index_add_(0, where, keys.to(layer.keys))
        layer.values[:, :, -back].index_add_(0, where, values.to(layer.values))
    for new in written:
        new.write()
    return cache


def _resolve(edits: Sequence[CacheEdit], prompt: CachedPrompt, row: int, shape: tuple[int, ...]) -> list[SlotEdit]:
    """A row's operators with slots by number."""
    found: list[SlotEdit] = []
    for edit in edits:
        if not isinstance(edit, SlotEdit) or type(edit).changed is SlotEdit.changed:
            raise ValueError(
                f"{type(edit).__name__} can't be applied to a cache that is there: it acts before or after; use it in"
                " kv.CacheEdits."
            )
        if edit.every:
            raise ValueError(
                f"{type(edit).__name__} with every=True reaches tokens that aren't cached yet; use it in kv.CacheEdits."
            )
        if isinstance(edit, Add):
            _check(edit, shape, row)
        found += edit.resolve(prompt, row)
    return found


def added_to(old: Tensor, added: Tensor) -> Tensor:
    """What really is added where `added` is cast to the dtype of `old` and summed there.

    Args:
        old: values in the cache.
        added: what is asked for, float32.

    Returns:
        float32, of the same shape. In float32 it is what was asked for, but for the last digits.

    >>> import torch
    >>> old = torch.tensor([2.0], dtype=torch.bfloat16)
    >>> added_to(old, torch.tensor([0.01])).tolist()  # bfloat16 has no value between 2 and 2.0156
    [0.015625]
    """
    return (old + added.to(old)).float() - old.float()


def check_cast(delta: Add, dtype: torch.dtype, label: str) -> None:
    """Refuse a delta that is infinite in the cache's dtype.

    Args:
        delta: what is to be added.
        dtype: the cache's.
        label: of the intervention.

    Raises:
        NotFiniteError: float16 ends at 65504.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> check_cast(kv.CacheDelta(torch.zeros(4, 2, 32), torch.ones(4, 2, 32)), torch.float16, "steered")
    """
    for name, part in (("keys", delta.keys), ("values", delta.values)):
        if not part.to(dtype).isfinite().all():
            largest = float(part.abs().max())
            said = (
                f"reach {largest:.3g}, which is infinite in {_name(dtype)}"
                if largest < float("inf")
                else ("hold NaN or infinity")
            )
            raise NotFiniteError(
                f"The {name} that {label!r} adds {said}; lower the coefficients, check the vectors, or load the model"
                " with dtype='float32'."
            )


def _check_sums(plan: Sequence[tuple[Any, int, Sequence[int], Tensor, Tensor]]) -> None:
    """Look at what half precision makes of the sums, before anything is changed: one look at the device for all."""
    infinite: list[Tensor] = []
    errors: list[Tensor] = []
    for layer, back, at, keys, values in plan:
        for cached, added in ((layer.keys, keys), (layer.values, values)):
            if cached.dtype == torch.float32:
                continue
            old = cached[torch.tensor(at, device=cached.device), :, -back]
            wanted = added.to(cached.device)
            realised = added_to(old, wanted)
            infinite.append((~realised.isfinite().all()).float().cpu())
            size = wanted.flatten(1).norm(dim=1)
            error = (realised - wanted).flatten(1).norm(dim=1) / size.clamp_min(torch.finfo(size.dtype).tiny)
            errors.append(torch.where(size > 0, error, 0).max().cpu())
    if not errors:
        return
    dtype = _name(plan[0][0].keys.dtype)
    if bool(torch.stack(infinite).any()):
        raise NotFiniteError(
            f"What is added to the cache makes it infinite in {dtype}; lower the coefficients or load the model with"
            " dtype='float32'."
        )
    worst = float(torch.stack(errors).max())
    if worst > ROUNDING:
        warnings.warn(
            f"The cache's dtype, {dtype}, is too coarse for so small an edit: in some layer what is really added is off"
            " by more than a tenth of what was asked for; kv.effective_dose tells by how much, layer by layer.",
            RoundingWarning,
            stacklevel=3,
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_slot(slot: SupportsIndex) -> int:
    """The slot as a Python integer.

    Args:
        slot: what is checked; numpy's whole numbers will do, too.

    Returns:
        The integer.

    Raises:
        ValueError: something that isn't a whole number.

    >>> check_slot(-1)
    -1
    """
    if isinstance(slot, bool) or not isinstance(slot, SupportsIndex):
        raise ValueError(f"The slot is {slot!r}; it must be a whole number, negative to count from the prompt's end.")
    return slot.__index__()


def slot_from_end(slot: int, length: int, row: int) -> int:
    """How far a slot lies from the end of a row of `length` cached tokens: 1 is the last.

    Args:
        slot: index into the row; negative counts from its end.
        length: cached tokens of the row.
        row: its number, for the error.

    Returns:
        A number from 1 to `length`.

    Raises:
        ValueError: the row has no such slot.

    >>> slot_from_end(0, 5, row=0), slot_from_end(-1, 5, row=0)
    (5, 1)
    """
    back = length - slot if slot >= 0 else -slot
    if not 1 <= back <= length:
        raise ValueError(
            f"Slot {slot} is out of range for row {row}, which has {length} cached tokens; choose {-length} to"
            f" {length - 1}."
        )
    return back


def _check(delta: Add, shape: tuple[int, ...], row: int) -> None:
    for name, part in (("keys", delta.keys), ("values", delta.values)):
        if tuple(part.shape) != shape:
            raise ValueError(
                f"The {name} of row {row}'s delta are {tuple(part.shape)}, but the cache is {shape} (layers, KV heads,"
                " head width)."
            )
        if not torch.isfinite(part).all():
            raise ValueError(
                f"The {name} of row {row}'s delta hold NaN or infinity; check the coefficients and the vectors."
            )
