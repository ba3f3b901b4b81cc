"""Edits of newly cached slots: while the plain model reads on, what it is about to cache is edited first."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ..models.caches import cache_argument
from ..models.lock import LOCK
from .base import SlotEdit


class Lasting:
    """A context in which some rows' new slots are edited as they are cached. It may be entered again and again.

    Args:
        hf: the model that reads on, with a cache.
        rows: each row's edits, in their order; spans and gates are not asked any more.

    >>> import kvsteer_lab as kv
    >>> [rows for _, rows in Lasting(kv.load("tiny").hf, [(kv.edits.Map(0.5, every=True),), ()]).groups]
    [[0]]
    """

    def __init__(self, hf: PreTrainedModel, rows: Sequence[Sequence[SlotEdit]]) -> None:
        self.hf, self.argument = hf, cache_argument(hf)
        found: dict[tuple[int, ...], tuple[tuple[SlotEdit, ...], list[int]]] = {}
        for row, edits in enumerate(rows):
            if edits:
                found.setdefault(tuple(map(id, edits)), (tuple(edits), []))[1].append(row)
        self.groups = list(found.values())

    def __enter__(self) -> None:
        LOCK.__enter__()
        self._handle = self.hf.register_forward_pre_hook(self._take_over, with_kwargs=True)

    def __exit__(self, *error: Any) -> None:
        self._handle.remove()
        LOCK.__exit__(*error)

    def changed(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values `[rows, kv_heads, time, head_dim]`, edited: float32 throughout, and cast at the end."""
        groups = [(edits, rows) for edits, rows in self.groups if any(_acts(edit, layer) for edit in edits)]
        if not groups:
            return keys, values
        new_keys, new_values = keys.clone(), values.clone()
        for edits, rows in groups:
            at = torch.tensor(rows, device=keys.device)
            # [kv_heads, slots, head_dim], the slots of all rows side by side
            k, v = (x[at].float().transpose(0, 1).flatten(1, 2) for x in (keys, values))
            for edit in edits:
                if not _acts(edit, layer):
                    continue
                heads = list(range(k.shape[0]) if edit.heads is None else edit.heads)
                both = edit.changed(layer, k, v)
                k, v = k.clone(), v.clone()
                k[heads], v[heads] = both[0][heads], both[1][heads]
            for new, part in ((new_keys, k), (new_values, v)):
                new[at] = part.unflatten(1, (len(rows), -1)).transpose(0, 1).to(new)
        return new_keys, new_values

    def _take_over(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        cache = kwargs[self.argument]
        if not isinstance(cache, _EditedCache):
            cache = _EditedCache.over(cache)
        cache.lasting = self
        return args, {**kwargs, self.argument: cache}


class _EditedCache(DynamicCache):
    """Another cache's layers, the same objects; what is added to them is edited."""

    lasting: Lasting

    @classmethod
    def over(cls, cache: DynamicCache) -> _EditedCache:
        view = copy.copy(cache)
        view.__class__ = cls
        return view

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return super().update(*self.lasting.changed(layer_idx, key_states, value_states), layer_idx, *args, **kwargs)


def _acts(edit: SlotEdit, layer: int) -> bool:
    return (edit.layers is None or layer in edit.layers) and edit.acts_on(layer)
