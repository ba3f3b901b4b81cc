"""Matched random controls of cache edits: as large as the edit, at the same slots, with something about them random."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import TypeVar

import torch
from torch import Tensor

from ..models.model import Model
from .addition import Add
from .banks import Bank
from .base import CacheEdit, SlotEdit
from .displaced import Displaced
from .operators import Erase, Insert, Replace
from .spans import Slots, Span
from .spans.spans import CachedPrompt

Edit = TypeVar("Edit", bound=CacheEdit)

_LEAD = 8  # tokens before a random prompt's slots: the first ones of a text are unlike all others


@singledispatch
def randomise(edit: CacheEdit, model: Model, seed: int) -> CacheEdit:
    """A matched random control of one edit. Span, layers, KV heads, gate and `every` stay what they are.

        Add       random vectors with the norm of each layer's and KV head's own, in keys and in values
        Map, or any other edit of slots
                  each slot goes as far as the edit takes it, in a direction that a random rotation has turned
        Replace   slots of another prompt, of random tokens, at the positions that the bank's keys have
        Insert    a bank of random keys and values with the norm of each slot's own, in each layer and KV head
        Erase     as many other slots of the same prompt, drawn at random; not the first, unless the span has it

    Args:
        edit: what is controlled.
        model: whose cache is edited.
        seed: of what is random.

    Returns:
        An edit of the same kind.

    Raises:
        ValueError: an operator that has no control.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> add = kv.edits.Add(torch.zeros(4, 2, 32), torch.ones(4, 2, 32))
    >>> drawn = randomise(add, kv.load("tiny"), seed=0)
    >>> bool(torch.allclose(drawn.values.norm(dim=-1), add.values.norm(dim=-1))), bool(drawn.keys.any())
    (True, False)
    """
    if not isinstance(edit, SlotEdit):
        raise ValueError(
            f"{type(edit).__name__} has no random control; register one with kvsteer_lab.edits.randomised.randomise."
        )
    return Displaced(edit, seed=seed)


@randomise.register
def _(edit: Add, model: Model, seed: int) -> CacheEdit:
    return towards_random(edit, seed)


@randomise.register
def _(edit: Replace, model: Model, seed: int) -> CacheEdit:
    bank = _other_prompt(model, len(edit.bank), seed)
    return replace(edit, bank=bank.at(model, edit.bank.positions))


@randomise.register
def _(edit: Insert, model: Model, seed: int) -> CacheEdit:
    generator = _generator(seed)
    keys, values = (alike(part, generator) for part in (edit.bank.keys, edit.bank.values))
    return replace(edit, bank=Bank(keys, values, edit.bank.positions))


@randomise.register
def _(edit: Erase, model: Model, seed: int) -> CacheEdit:
    return replace(edit, span=OtherSlots(edit.span or Slots(-1), seed))


@dataclass(frozen=True)
class OtherSlots(Span):
    """As many slots as a span has, drawn at random from those of the prompt that it hasn't got. The first slot, which
    many heads rest on, is left out.

    Args:
        span: whose slots are left out.
        seed: of the draw, which is another one for each prompt.

    Raises:
        ValueError: when it is looked up: the prompt has too few other slots.

    >>> OtherSlots(Slots(-1, -2), seed=0).find(CachedPrompt((5, 6, 7, 8, 9)))
    (1, 2)
    """

    span: Span
    seed: int

    def find(self, prompt: CachedPrompt) -> tuple[int, ...]:
        own = self.span.find(prompt)
        others = [slot for slot in range(1, len(prompt.ids)) if slot not in own]
        if len(others) < len(own):
            raise ValueError(
                f"A prompt of {len(prompt.ids)} tokens has only {len(others)} other slots, too few for a control of a"
                f" span of {len(own)}; erase fewer."
            )
        drawn = random.Random(f"{self.seed} {prompt.ids}").sample(others, len(own))
        return tuple(sorted(drawn))


def towards_random(edit: Edit, seed: int) -> Edit:
    """The same edit with random `keys` and `values` of the same norms, in each layer and KV head.

    Args:
        edit: an operator with vectors `[layers, kv_heads, head_dim]` of these names.
        seed: of the vectors.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> towards_random(kv.edits.Add(torch.zeros(1, 1, 2), torch.ones(1, 1, 2)), 0).slot
    -1
    """
    generator = _generator(seed)
    keys, values = (alike(getattr(edit, part), generator) for part in ("keys", "values"))
    return replace(edit, keys=keys, values=values)  # type: ignore[type-var]  # operators are dataclasses


def alike(part: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian directions with the norm of each vector of the last dimension; zeros stay zeros.

    >>> import torch
    >>> alike(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.Generator()).norm(dim=-1).round().tolist()
    [5.0, 0.0]
    """
    noise = torch.randn(part.shape, generator=generator)
    return torch.nn.functional.normalize(noise, dim=-1) * part.norm(dim=-1, keepdim=True)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed + 3**18)  # not what vectors drawn with the same seed have


def _other_prompt(model: Model, slots: int, seed: int) -> Bank:
    """The last slots of a prompt of random tokens."""
    special = set(model.tokenizer.all_special_ids)
    words = [token for token in range(len(model.tokenizer)) if token not in special]
    ids = random.Random(seed).choices(words, k=_LEAD + slots)
    return Bank.of_tokens(model, ids, range(_LEAD, _LEAD + slots))
