"""A program of cache edits as an intervention, and its matched random controls."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from transformers import DynamicCache

from .._util.later import LATER
from ..edits.addition import Add
from ..edits.base import CacheEdit, SlotEdit
from ..edits.cache import apply
from ..edits.displaced import Displaced, once
from ..edits.gates import opens, show
from ..edits.operators import Erase, Insert
from ..edits.randomised import randomise
from ..edits.scaling import scale
from ..edits.spans import ChunkEnds
from ..edits.spans.spans import CachedPrompt
from ..edits.towards import TowardsChunk
from ..models.model import Model
from ..models.prompts import Prompt, as_chat, as_list
from .checks import check_coefficient
from .scaled import Scaled


@dataclass(frozen=True, init=False)
class CacheEdits(Scaled):
    """Edit the prompt's cache by operators, one after the other; the same in every prompt, each with its own slots.

    `Insert` acts before the prompt is read, all others on the cache that it leaves, and `Erase` on what is read
    afterwards.

    Args:
        edits: operators of `kv.edits`: `Add`, `Map`, `Replace`, `Insert`, `Erase`.
        name: the label, if it isn't to be made from the operators.
        coefficient: how much of it is done: 1 as the operators say, 0.5 takes every slot half as far. A bank counts so
            many times in attention; `Erase` is done or not.
        style: the style that is aimed at, for tables that count it.

    Raises:
        ValueError: none, or something that isn't an operator; a coefficient that is NaN or infinite, or other than 1
            where there is nothing to scale. When it is used: one that doesn't fit the model, or a span that some prompt
            hasn't got.

    Example:
        >>> import kvsteer_lab as kv
        >>> halved = kv.CacheEdits([kv.edits.Map(0.5, part="values", span=kv.spans.Everything())])
        >>> halved.label, [control.label for control in halved.controls(1)]
        ('map values of everything', ['random 0 for map values of everything'])
        >>> kv.divergence(kv.load("tiny"), "2 + 3?", "The answer", halved).totals[0] > 0
        True
    """

    edits: tuple[CacheEdit, ...]
    name: str | None = None
    coefficient: float = field(default=1.0, metadata=LATER)
    style: str | None = field(default=None, metadata=LATER)

    def __init__(
        self,
        edits: CacheEdit | Iterable[CacheEdit],
        name: str | None = None,
        coefficient: float = 1.0,
        style: str | None = None,
    ) -> None:
        given = tuple(edits) if isinstance(edits, Iterable) else (edits,)
        if not given:
            raise ValueError("There are no edits; pass at least one, or use kv.Nothing().")
        wrong = [edit for edit in given if not isinstance(edit, CacheEdit)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not a cache edit; use kv.edits.Add, Map, Replace, Insert or Erase.")
        factor = check_coefficient(coefficient)
        fields = dict(edits=given, name=name, coefficient=factor, style=style)
        fields["_done"] = given if factor == 1 else tuple(scale(edit, factor) for edit in given)
        for key, value in fields.items():
            object.__setattr__(self, key, value)

    @property
    def done(self) -> tuple[CacheEdit, ...]:
        """The operators at the present coefficient."""
        return self._done  # type: ignore[attr-defined]

    @property
    def label(self) -> str:
        size = "" if self.coefficient == 1 else f" c={self.coefficient:g}"
        return self.name or ", ".join(map(_described, self.edits)) + size

    def check(self, model: Model) -> None:
        for edit in self.done:
            edit.check(model)

    def check_adds(self) -> None:
        """Refuse additions of zeros alone.

        Raises:
            ValueError: nothing is done at any coefficient.
        """
        if all(isinstance(edit, Add) and not (edit.keys.any() or edit.values.any()) for edit in self.edits):
            raise ValueError(
                f"What {self.label!r} adds is zero, so no coefficient does anything; check what it is made of."
            )

    def check_opens(self, model: Model, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts on none of which anything is done. Cost: a prefill of each, if all edits have gates.

        Args:
            model: the model that is edited.
            prompts: texts or chats.

        Raises:
            ValueError: every gate is closed on all of them.
        """
        gates = [gate for edit in self.edits if (gate := getattr(edit, "when", None)) is not None]
        if len(gates) < len(self.edits):
            return
        shown = show(model, [model.encode(prompt) for prompt in prompts])
        if not any(opens(gate, last, row) for gate in gates for row, last in enumerate(shown)):
            raise ValueError(
                f"The gate of {self.label!r} is closed on all {len(prompts)} prompts, so no coefficient does anything;"
                " fit it to prompts like these."
            )

    def at(self, coefficient: float, name: str | None = None) -> CacheEdits:
        """The same edits at another coefficient.

        Args:
            coefficient: the new one.
            name: the new label; `None`: one made from the operators.

        Raises:
            ValueError: `Erase` among them, and a coefficient other than 1; a bank, and a negative one.

        Example:
            >>> import kvsteer_lab as kv
            >>> kv.CacheEdits([kv.edits.Map(0.5)]).at(0.5).label
            'map c=0.5'
        """
        return CacheEdits(self.edits, name, coefficient, self.style)

    def unit_doses(self, model: Model, prompts: Prompt | Sequence[Prompt]) -> pd.Series:
        """How far the edits of slots go at coefficient 1: |f(x) - x| / |x| of keys and of values, averaged over the
        slots and layers that change and over the prompts. `Insert` and `Erase` change no slot.

        Args:
            model: the model that is edited.
            prompts: prompts whose edited slots are measured.
        """
        rows = []
        own = tuple(edit for edit in self.edits if isinstance(edit, SlotEdit) and not isinstance(edit, Erase))
        open_edits = tuple(once(edit) for edit in own)
        for prompt in as_list(prompts):
            cache = model.prefill(prompt)
            old = copy.deepcopy(cache)
            known = CachedPrompt.of(model.tokenizer, model.encode(prompt), as_chat(prompt))
            new = apply(cache, [open_edits], prompts=[known]) if own else cache
            found = {}
            for part in ("keys", "values"):
                pairs = [(getattr(a, part).float(), getattr(b, part).float()) for a, b in _layers(old, new)]
                shares = [((y - x).norm(dim=(1, 3)) / x.norm(dim=(1, 3)).clamp_min(1e-12))[0] for x, y in pairs]
                moved = [float(s[s > 0].mean()) for s in shares if bool((s > 0).any())]
                found[part] = sum(moved) / len(moved) if moved else 0.0
            rows.append(found)
        return pd.DataFrame(rows).mean()

    def random_control(self, seed: int) -> EditsControl:
        return EditsControl(self, seed, f"random {seed} for {self.label}")

    def deltas(self, model: Model, lengths: Sequence[int]) -> list[tuple[CacheEdit, ...]]:
        return [self.done] * len(lengths)


@dataclass(frozen=True)
class EditsControl(Scaled):
    """Cache edits with something about each of them random, see `kv.edits.randomise`. Made by `CacheEdits.controls`.

    Args:
        changed: what is controlled.
        seed: of what is random.
        name: its own label.

    Example:
        >>> import kvsteer_lab as kv
        >>> control = kv.CacheEdits([kv.edits.Map(0.5)]).controls(1)[0]
        >>> control.control_of, control.control_kind
        ('map', 'random')
    """

    changed: CacheEdits = field(repr=False)
    seed: int
    name: str
    of: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", self.of or self.changed.label)
        object.__setattr__(self, "_drawn", {})

    @property
    def coefficient(self) -> float:  # type: ignore[override]
        return self.changed.coefficient

    @property
    def style(self) -> str | None:
        return self.changed.style

    @property
    def label(self) -> str:
        return self.name

    @property
    def control_of(self) -> str | None:
        return self.of

    @property
    def control_kind(self) -> str | None:
        return "random"

    def check(self, model: Model) -> None:
        self.changed.check(model)

    def check_adds(self) -> None:
        self.changed.check_adds()

    def at(self, coefficient: float, name: str | None = None) -> EditsControl:
        changed = self.changed.at(coefficient, self.changed.name)
        return EditsControl(changed, self.seed, self.name if name is None else name, self.of)

    def unit_doses(self, model: Model, prompts: Prompt | Sequence[Prompt]) -> pd.Series:
        return self.changed.unit_doses(model, prompts)

    def random_control(self, seed: int) -> EditsControl:
        return EditsControl(self.changed, seed, f"random {seed} for {self.label}", self.of)

    def deltas(self, model: Model, lengths: Sequence[int]) -> list[tuple[CacheEdit, ...]]:
        drawn: dict[str, tuple[CacheEdit, ...]] = self._drawn  # type: ignore[attr-defined]
        key = f"{id(model)} {model.name}"
        if key not in drawn:  # one object for all rows, so that they share a prompt's prefill
            drawn[key] = tuple(
                randomise(edit, model, self.seed * 64 + place) for place, edit in enumerate(self.changed.done)
            )
        return [drawn[key]] * len(lengths)


def _layers(old: DynamicCache, new: DynamicCache) -> Iterable[tuple[Any, Any]]:
    return zip(old.layers, new.layers, strict=True)


def _described(edit: CacheEdit) -> str:
    if isinstance(edit, Displaced):
        return _described(edit.edit)
    if isinstance(edit, Insert):
        where = "" if edit.layers is None else f" layers={','.join(map(str, edit.layers))}"
        weight = "" if edit.weight == 1 else f" weight={edit.weight:g}"
        return f"insert {len(edit.bank)} slots{where}{weight}{' gated' if edit.when is not None else ''}"
    if not isinstance(edit, SlotEdit):
        return type(edit).__name__.lower()
    part = getattr(edit, "part", "both")
    name = f"towards chunk {edit.number}" if isinstance(edit, TowardsChunk) else type(edit).__name__.lower()
    parts = [name, *([part] if part != "both" else [])]
    if isinstance(edit, TowardsChunk) and edit.span == ChunkEnds(edit.chunks, int(edit.number)):
        parts.append("at its own end")
    elif edit.span is not None:
        said = repr(edit.span).removesuffix("()")
        parts.append(f"of {said.lower() if said.isidentifier() else said}")
    elif isinstance(edit, Add | Erase) and getattr(edit, "slot", -1) != -1:
        parts.append(f"at slot {edit.slot}")  # type: ignore[union-attr]
    parts += [f"layers={','.join(map(str, edit.layers))}"] if edit.layers is not None else []
    parts += [f"heads={','.join(map(str, edit.heads))}"] if edit.heads is not None else []
    parts += ["gated"] if edit.when is not None else []
    return " ".join([*parts, *(["every token"] if edit.every else [])])
