"""Cache steering, the method of Belitsky et al. (2025): one slot of the cache is edited once, after prefill: x[slot] +=
c S in each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import pandas as pd
import torch

from ..edits.addition import CacheDelta
from ..edits.base import CacheEdit
from ..edits.slots import check_slot
from ..models.model import Model
from ..models.prompts import Prompt
from ..tasks.base import Task
from ..vectors.extraction import extract
from ..vectors.indices import check_indices
from ..vectors.kv import KVVectors
from ..vectors.pairs import ContrastiveSet
from ..vectors.randomised import random_like
from .checks import check_adds, check_coefficient, check_vectors
from .steering import Steering


@dataclass(frozen=True)
class CacheSteering(Steering):
    """Add `ck` times the key vectors and `cv` times the value vectors to one cached slot, after prefill.

    Args:
        vectors: what to add at coefficient 1.
        ck, cv: coefficients of keys and values. They mean little by themselves: see `vectors.relative_to`.
        layers: exactly these layers; `None`: layer 1 and above, as in the paper.
        heads: exactly these KV heads; `None`: all.
        slot: which slot of the prompt; negative counts from its end.
        name: the label, if it isn't to be made from the settings.

    Raises:
        ValueError: a coefficient that is NaN or infinite, a layer or head out of range, a slot that isn't a whole
            number.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1, {"style": "stepwise"})
        >>> vectors = kv.KVVectors(torch.ones(3, 2, 4), torch.ones(3, 2, 4), card)
        >>> steering = kv.CacheSteering(vectors, ck=0, cv=6, heads=[0])
        >>> steering.label
        'steered stepwise ck=0 cv=6 heads=0'
        >>> steering.edited_layers
        (1, 2)
    """

    vectors: KVVectors = field(repr=False)
    ck: float
    cv: float
    layers: Iterable[int] | None = None
    heads: Iterable[int] | None = None
    slot: int = -1
    name: str | None = None

    def __post_init__(self) -> None:
        check_vectors(self.vectors, KVVectors, "make them with kv.extract or load them with kv.KVVectors.load")
        for key in ("ck", "cv"):
            object.__setattr__(self, key, check_coefficient(getattr(self, key), key))
        object.__setattr__(self, "slot", check_slot(self.slot))
        layers = None if self.layers is None else tuple(check_indices("layer", self.layers, self.vectors.n_layers))
        heads = None if self.heads is None else tuple(check_indices("KV head", self.heads, self.vectors.n_kv_heads))
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "heads", heads)

    @staticmethod
    def of_style(
        model: Model,
        task: Task,
        style: str,
        *,
        ck: float,
        cv: float,
        n: int = 100,
        shots: int = 5,
        seed: int = 0,
        name: str | None = None,
        progress: bool = True,
    ) -> CacheSteering:
        """Steering towards a task's style: few-shot pairs, their vectors, and these coefficients, in one call.

        The same as `kv.extract` on `kv.ContrastiveSet.few_shot`, for where neither pairs nor vectors are looked at.

        Args:
            model: the model to extract from.
            task: pairs come from its extraction split.
            style: how the positive examples answer; the negative ones answer directly.
            ck, cv: coefficients of keys and values.
            n: pairs.
            shots: examples in each prompt.
            seed: fixes questions and examples.
            name: the label, if it isn't to be made from the settings.
            progress: whether to show a bar.

        Raises:
            ValueError: a coefficient that is NaN or infinite, or as `ContrastiveSet.few_shot` and `kv.extract`.

        Example:
            >>> import kvsteer_lab as kv
            >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
            >>> kv.CacheSteering.of_style(model, task, "stepwise", ck=0, cv=2, n=8, shots=2, progress=False).label
            'steered stepwise ck=0 cv=2'
        """
        ck, cv = check_coefficient(ck, "ck"), check_coefficient(cv, "cv")
        pairs = ContrastiveSet.few_shot(task, model.tokenizer, style=style, n=n, shots=shots, seed=seed)
        return CacheSteering(extract(model, pairs, progress=progress), ck, cv, name=name)

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        parts = [f"steered {self.style or ''}".strip(), f"ck={self.ck:g}", f"cv={self.cv:g}"]
        chosen = (("layers", self.layers), ("heads", self.heads))
        parts += [f"{what}={','.join(map(str, numbers))}" for what, numbers in chosen if numbers is not None]
        parts += [f"slot={self.slot}"] if self.slot != -1 else []
        return " ".join(parts)

    @property
    def coefficient(self) -> float:  # type: ignore[override]
        """The coefficient of the values, `cv`."""
        return self.cv

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers that are edited, in ascending order."""
        return super().edited_layers if self.layers is None else tuple(self.layers)

    scope = edited_layers  # the name until 0.1

    @property
    def added(self) -> KVVectors:
        """What is added at coefficient 1: the vectors, with zeros in all layers and KV heads that are left alone."""
        return self.vectors.only(self.edited_layers, self.heads)

    @property
    def parts_added(self) -> tuple[str, ...]:
        """Which of `"keys"` and `"values"` get anything at the present coefficients."""
        own = self.added
        return tuple(part for part, c in (("keys", self.ck), ("values", self.cv)) if c and getattr(own, part).any())

    def check_adds(self) -> None:
        if self.edited_layers and self.heads == ():
            raise ValueError(f"{self.label!r} edits no KV heads, so no coefficient does anything; name at least one.")
        super().check_adds()

    def at(self, coefficient: float, name: str | None = None) -> Self:
        """The same steering with another `cv`; `ck` keeps its ratio to it.

        Args:
            coefficient: the new `cv`.
            name: the new label; `None`: one made from the settings.

        Raises:
            ValueError: a steering of keys alone, which has no such ratio.

        Example:
            >>> import torch
            >>> import kvsteer_lab as kv
            >>> from kvsteer_lab.vectors import Card
            >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1, {"style": "stepwise"})
            >>> vectors = kv.KVVectors(torch.ones(3, 2, 4), torch.ones(3, 2, 4), card)
            >>> steering = kv.CacheSteering(vectors, ck=1, cv=4)
            >>> half = steering.at(2.0, "half")
            >>> half.ck, half.cv, half.label
            (0.5, 2.0, 'half')
        """
        if self.cv == 0 and self.ck != 0:
            raise ValueError(
                f"{self.label!r} edits keys only (cv=0), so it can't be scaled by cv; give it a value coefficient."
            )
        return replace(self, ck=self.ck * coefficient / self.cv if self.ck else 0.0, cv=coefficient, name=name)

    def unit_doses(self, model: Model, prompts: Prompt | Sequence[Prompt]) -> pd.Series:
        table = self.added.relative_to(model, prompts, slot=self.slot).set_index("layer")
        return table.loc[list(self.edited_layers)].mean()

    def controls(self, n: int, seed: int = 0) -> Sequence[Control]:
        return super().controls(n, seed)  # type: ignore[return-value]  # made by `random_control` below

    def random_control(self, seed: int) -> Control:
        return as_control(self, "random", random_like(self.added, seed), f"random {seed} for")

    def deltas(self, model: Model, lengths: Sequence[int]) -> list[tuple[CacheEdit, ...]]:
        own = self.added
        keys, values = self.ck * own.keys, self.cv * own.values
        if self.vectors.card.keys == "post_rope" or not model.rotary.rotates:
            return [(CacheDelta(keys, values, self.slot),)] * len(lengths)
        slots = torch.tensor([n + self.slot if self.slot < 0 else self.slot for n in lengths])
        rotated = model.rotary.rotate(keys.expand(len(lengths), *keys.shape), slots)
        return [(CacheDelta(k, values, self.slot),) for k in rotated]


@dataclass(frozen=True)
class Control(CacheSteering):
    """Cache steering with something about it changed; it remembers what it controls. Made by `kv.random_controls` and
    the functions beside it.

    Args:
        steering: the label of what it controls.
        kind: what was changed; controls of one kind are summarised together.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1, {"style": "stepwise"})
        >>> vectors = kv.KVVectors(torch.ones(3, 2, 4), torch.ones(3, 2, 4), card)
        >>> steering = kv.CacheSteering(vectors, ck=0, cv=6)
        >>> (control,) = kv.random_controls(steering, 1)
        >>> control.control_of, control.control_kind
        ('steered stepwise ck=0 cv=6', 'random')
    """

    steering: str = ""
    kind: str = "random"

    @property
    def control_of(self) -> str | None:
        return self.steering

    @property
    def control_kind(self) -> str | None:
        return self.kind


def as_control(steering: CacheSteering, kind: str, vectors: KVVectors, name: str) -> Control:
    """`steering` with other vectors, as a control of it.

    Args:
        steering: what is controlled; its coefficients, layers, heads and slot are kept.
        kind: what was changed.
        vectors: what is added instead.
        name: how its label begins; the steering's label follows.
    """
    return Control(
        vectors,
        steering.ck,
        steering.cv,
        layers=steering.layers,
        heads=steering.heads,
        slot=steering.slot,
        name=f"{name} {steering.label}",
        steering=steering.label,
        kind=kind,
    )


def check_cache_steering(steering: object) -> None:
    """`check_adds`, for what only cache steering has: keys and values, KV heads, a slot.

    Raises:
        ValueError: another intervention, or as `check_adds`.

    Example:
        >>> import kvsteer_lab as kv
        >>> check_cache_steering(kv.CoTPrompt())
        Traceback (most recent call last):
        ValueError: Cache steering is asked for, a kv.CacheSteering, not CoTPrompt.
    """
    if not isinstance(steering, CacheSteering):
        raise ValueError(f"Cache steering is asked for, a kv.CacheSteering, not {type(steering).__name__}.")
    check_adds(steering)
