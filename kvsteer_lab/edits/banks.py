"""Banks: keys and values taken from a prompt's cache, to be put in another's place or before another prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from ..models.caches import cache_of
from ..models.layers import decoder_layers
from ..models.lock import locked
from ..models.model import Model
from ..models.prompts import Prompt
from ..models.tokens import pad_left
from .base import CacheShape
from .given import check_sequence, float_array, whole_number
from .spans import Everything, Span, find_slots
from .spans.spans import CachedPrompt


@dataclass(frozen=True, eq=False)
class Bank:
    """Keys and values of some slots, kept in float32 on the CPU.

    Attributes:
        keys, values: `[layers, kv_heads, slots, head_dim]`; keys as a cache holds them, rotated to `positions`.
        positions: the position that each slot pretends to have.

    Raises:
        ValueError: an empty bank, shapes that differ, NaN or infinity, or not one position a slot.

    >>> import kvsteer_lab as kv
    >>> bank = kv.edits.Bank.of(kv.load("tiny"), "How many?", kv.spans.Slots(-2, -1))
    >>> bank.keys.shape
    torch.Size([4, 2, 2, 32])
    """

    keys: Float[Tensor, "layers kv_heads slots head_dim"] = field(repr=False)
    values: Float[Tensor, "layers kv_heads slots head_dim"] = field(repr=False)
    positions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for part in ("keys", "values"):
            needs = "an array [layers, kv_heads, slots, head_dim]"
            object.__setattr__(self, part, float_array(f"What a bank has of {part}", getattr(self, part), needs))
        if self.keys.ndim != 4 or self.keys.shape != self.values.shape:
            raise ValueError(
                f"A bank's keys and values are [layers, kv_heads, slots, head_dim], both of one shape, not"
                f" {tuple(self.keys.shape)} and {tuple(self.values.shape)}."
            )
        if not len(self):
            raise ValueError("The bank is empty; take at least one slot into it.")
        if not (self.keys.isfinite().all() and self.values.isfinite().all()):
            raise ValueError("The bank holds NaN or infinity; check where its keys and values come from.")
        object.__setattr__(self, "positions", tuple(self.positions or range(len(self))))
        if len(self.positions) != len(self):
            raise ValueError(f"The bank has {len(self)} slots but {len(self.positions)} positions; give one for each.")

    def __len__(self) -> int:
        return int(self.keys.shape[2])

    @classmethod
    def of(cls, model: Model, prompt: Prompt, span: Span | None = None, *, chat: bool = True) -> Bank:
        """What a prompt caches for a span. Layers with sliding windows are read in full.

        Args:
            model: from `kv.load`.
            prompt, chat: as in `model.encode`.
            span: which slots; `None`: all.

        Raises:
            ValueError: as `model.encode`, or the span isn't found.
        """
        ids = model.encode(prompt, chat=chat)
        given = prompt if not isinstance(prompt, str) else [{"role": "user", "content": prompt}]
        found = CachedPrompt.of(model.tokenizer, ids, given if chat else None)
        return cls.of_tokens(model, ids, find_slots(span or Everything(), found, 0).numbers)

    @classmethod
    @locked
    @torch.no_grad()
    def of_tokens(
        cls, model: Model, ids: Sequence[int], slots: Sequence[int], positions: Sequence[int] | None = None
    ) -> Bank:
        """What token ids cache at some slots. Layers with sliding windows are read in full.

        Args:
            model: from `kv.load`.
            ids: at least one.
            slots: indices from 0.
            positions: at which each id is read; `None`: one behind the other.

        Raises:
            ValueError: positions, and a model that counts its own.

        >>> import kvsteer_lab as kv
        >>> Bank.of_tokens(kv.load("tiny"), [5, 6, 7], [1, 2]).positions
        (1, 2)
        """
        arguments = model.forward_arguments(*pad_left([ids], model.pad_id, model.device))
        if positions is not None:
            if not model.accepts("position_ids"):
                raise ValueError(f"{model.name} counts positions itself, so tokens can't be read with gaps between.")
            arguments["position_ids"] = torch.tensor([list(positions)], device=model.device)
        cache = cache_of(model.hf(**arguments, **{model.cache_argument: DynamicCache()}, use_cache=True))
        keys = torch.stack([x.keys[0, :, list(slots)].float().cpu() for x in cache.layers])
        values = torch.stack([x.values[0, :, list(slots)].float().cpu() for x in cache.layers])
        at = range(len(ids)) if positions is None else positions
        return cls(keys, values, tuple(at[slot] for slot in slots))

    @classmethod
    def zeros(cls, model: Model, slots: int = 1) -> Bank:
        """Slots whose keys and values are zero.

        Args:
            model: whose shape they have.
            slots: how many.

        Raises:
            ValueError: none, or no whole number.
        """
        n = whole_number("The number of slots", slots)
        empty = torch.zeros(model.n_layers, model.n_kv_heads, max(n, 0), model.head_dim)
        return cls(empty, empty)

    @classmethod
    def mean(cls, banks: Sequence[Bank]) -> Bank:
        """The mean of banks of one shape, slot by slot.

        Args:
            banks: at least one; keys are averaged as they are, so bring them to the same positions first (`at`).

        Raises:
            ValueError: none, or different shapes or positions.
        """
        if not banks or len({(b.keys.shape, b.positions) for b in banks}) > 1:
            raise ValueError("A mean is taken over one or more banks of equal shape and equal positions; see Bank.at.")
        keys, values = (torch.stack([getattr(b, part) for b in banks]).mean(0) for part in ("keys", "values"))
        return cls(keys, values, banks[0].positions)

    def at(self, model: Model, positions: Sequence[int]) -> Bank:
        """The same content at other positions: the keys are un-rotated and rotated anew.

        Args:
            model: which cached it.
            positions: one a slot.

        Raises:
            ValueError: not one position a slot, or a model whose rotation can't be undone.
        """
        self.check(model)
        check_sequence("positions", positions, len(self), "slot")
        keys = self.keys.permute(2, 0, 1, 3)
        if model.rotary.rotates:
            free = model.rotary.unrotate(keys, torch.tensor(self.positions))
            keys = model.rotary.rotate(free, torch.tensor(list(positions)))
        return Bank(keys.permute(1, 2, 0, 3).contiguous(), self.values, tuple(positions))

    def check(self, model: Model | CacheShape) -> None:
        """Refuse a bank of another model or cache.

        Raises:
            ValueError: another number of layers or KV heads, or another head width.
        """
        found, wanted = (*self.keys.shape[:2], self.keys.shape[3]), (model.n_layers, model.n_kv_heads, model.head_dim)
        if found != wanted:
            raise ValueError(
                f"The bank is {found}, but {model.name} has {wanted} (layers, KV heads, head width); take a bank of"
                " this model."
            )


def check_bank(bank: object) -> None:
    """Refuse what is no bank.

    Args:
        bank: what was given as one.

    Raises:
        ValueError: something else.

    >>> import kvsteer_lab as kv
    >>> check_bank(Bank.zeros(kv.load("tiny")))
    """
    if not isinstance(bank, Bank):
        raise ValueError(
            f"The bank is of type {type(bank).__name__}; take one with kv.edits.Bank.of(model, prompt), Bank.zeros and"
            " the like."
        )


def joined(banks: Sequence[Bank]) -> Bank:
    """Banks one behind the other, each with the positions that it has.

    Args:
        banks: at least one, of one model.

    Returns:
        A single one as it is.

    >>> import kvsteer_lab as kv
    >>> len(joined([Bank.zeros(kv.load("tiny"), 2), Bank.zeros(kv.load("tiny"), 3)]))
    5
    """
    if len(banks) == 1:
        return banks[0]
    keys, values = (torch.cat([getattr(bank, part) for bank in banks], 2) for part in ("keys", "values"))
    return Bank(keys, values, tuple(p for bank in banks for p in bank.positions))


def cache_of_banks(model: Model, banks: Sequence[Bank | None]) -> DynamicCache:
    """A cache that holds a bank a row and nothing else; where there is none, padding.

    Args:
        model: whose cache it is.
        banks: a row each; those that there are have one length.

    >>> import kvsteer_lab as kv
    >>> model = kv.load("tiny")
    >>> cache_of_banks(model, [Bank.zeros(model, 3)]).get_seq_length()
    3
    """
    empty = next(bank for bank in banks if bank is not None)
    keys, values = (
        torch.stack([torch.zeros_like(getattr(empty, p)) if bank is None else getattr(bank, p) for bank in banks])
        for p in ("keys", "values")
    )
    cache = DynamicCache(config=model.hf.config)
    for layer, module in enumerate(decoder_layers(model.hf)):
        device = next(module.parameters()).device
        cache.update(keys[:, layer].to(device, model.dtype), values[:, layer].to(device, model.dtype), layer)
    return cache
