"""Knock-outs of reading: a slot is hidden from everything, from one layer or head, from all but one, or from a step on;
and other slots are hidden for comparison.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...edits.slots import check_slot, slot_from_end
from ...interventions.hiding import HideSlot
from ...models.attention import query_heads
from ...models.model import Model
from ...vectors.indices import check_indices

KNOCK_OUT_WAYS = (
    "everything",
    "one layer",
    "all but one layer",
    "one head",
    "all but one head",
    "from step",
    "only at step",
    "other slot",
)
DEFAULT_STEPS = (1, 2, 4, 8)


@dataclass(frozen=True)
class KnockOut:
    """A row of a knock-out table: a way, what is hidden, and the layer, query head, step or slot that it is about."""

    way: str
    hide: HideSlot
    layer: int | None = None
    head: int | None = None
    step: int | None = None


def knock_outs(
    model: Model,
    ways: str | Sequence[str],
    steps: Sequence[int],
    slot: int,
    others: int | None,
    lengths: Sequence[int],
    seed: int,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> list[KnockOut]:
    """Every way's knock-outs. Of one-layer models "all but one layer" hides nothing, and there is none.

    Args:
        model: the model that reads.
        ways: of `KNOCK_OUT_WAYS`.
        steps: for `"from step"` and `"only at step"`.
        slot: what is hidden; negative counts from the prompt's end.
        others: how many other slots for `"other slot"`, each hidden from everything; `None`: 20, or as many as there
            are.
        lengths: of the prompts, in all of which these must be.
        seed: of the choice of other slots.
        layers, heads: which layers, and which query heads of them, the ways of one layer or head are about; `None`:
            all. "All but one" hides the slot from all others of the model, those that are not named here included.

    Raises:
        ValueError: no or unknown ways, no or negative steps, or fewer other slots in the shortest prompt than asked
            for.
        UnsteerableModelError: a model whose attention can't be looked into.
    """
    chosen = (ways,) if isinstance(ways, str) else tuple(dict.fromkeys(ways))
    unknown = [way for way in chosen if way not in KNOCK_OUT_WAYS]
    if unknown or not chosen:
        raise ValueError(
            f"{f'{unknown[0]!r} is not a way of hiding a slot' if unknown else 'ways is empty'}; choose from"
            f" {', '.join(KNOCK_OUT_WAYS)}."
        )
    if any(way.endswith("step") for way in chosen) and (not steps or min(steps) < 0):
        raise ValueError(
            f"steps must be one or more steps, 0 or above, not {tuple(steps)}; step 0 is the offset token."
        )
    check_slot(slot)
    hidden = {slot_from_end(slot, length, row) for row, length in enumerate(lengths)}
    there = [back for back in range(1, min(lengths, default=1) + 1) if back not in hidden]
    if "other slot" in chosen and not there:
        raise ValueError(
            "No slot beside the hidden one is in every prompt, so no other can be hidden for comparison; pass longer"
            " prompts."
        )
    others = min(20, len(there)) if others is None else others
    if "other slot" in chosen and not 1 <= others <= len(there):
        raise ValueError(
            f"The prompts have {len(there)} slots beside the hidden one in common, so {others} others can't be drawn;"
            f" choose 1 to {len(there)}."
        )
    drawn = sorted(random.Random(f"{seed}/other slots").sample(there, others)) if "other slot" in chosen else []
    n_heads = query_heads(model.hf)
    places = _Places(
        model.n_layers,
        n_heads,
        check_indices("layer", layers, model.n_layers),
        check_indices("query head", heads, n_heads),
    )
    if any("layer" in way or "head" in way for way in chosen) and not (places.layers and places.heads):
        raise ValueError("There are no layers or heads to hide the slot from; name at least one of each.")
    return [out for way in chosen for out in _of_way(way, places, dict.fromkeys(steps), slot, drawn)]


@dataclass(frozen=True)
class _Places:
    """How many layers and query heads a model has, and which of them are asked about."""

    n_layers: int
    n_heads: int
    layers: Sequence[int]
    heads: Sequence[int]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [(layer, head) for layer in self.layers for head in self.heads]

    def others(self, pair: tuple[int, int]) -> list[tuple[int, int]]:
        """All heads of the model but one."""
        every = ((layer, head) for layer in range(self.n_layers) for head in range(self.n_heads))
        return [each for each in every if each != pair]


def _of_way(way: str, places: _Places, steps: dict[int, None], slot: int, others: Sequence[int]) -> Iterator[KnockOut]:
    if way == "everything":
        yield KnockOut(way, HideSlot(slot=slot))
    elif way == "one layer":
        yield from (KnockOut(way, HideSlot(layers=[layer], slot=slot), layer) for layer in places.layers)
    elif way == "all but one layer" and places.n_layers > 1:
        yield from (
            KnockOut(way, HideSlot(layers=[x for x in range(places.n_layers) if x != layer], slot=slot), layer)
            for layer in places.layers
        )
    elif way == "one head":
        yield from (KnockOut(way, HideSlot(heads=[pair], slot=slot), *pair) for pair in places.pairs)
    elif way == "all but one head" and places.n_layers * places.n_heads > 1:
        for pair in places.pairs:  # the label that a list of all other heads makes would be long
            name = f"slot {slot} hidden from all heads but {pair[0]}.{pair[1]}"
            yield KnockOut(way, HideSlot(heads=places.others(pair), slot=slot, name=name), *pair)
    elif way == "from step":
        yield from (KnockOut(way, HideSlot(first=step, slot=slot), step=step) for step in steps)
    elif way == "only at step":
        yield from (KnockOut(way, HideSlot(first=step, end=step + 1, slot=slot), step=step) for step in steps)
    elif way == "other slot":
        yield from (KnockOut(way, HideSlot(slot=-back)) for back in others)
