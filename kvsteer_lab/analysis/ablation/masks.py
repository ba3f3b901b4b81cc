"""Masks of a steering: which of its layers and KV heads are kept, and whether its keys, its values or both are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...interventions.cache import CacheSteering, check_cache_steering
from ..checks import check_edits

ABLATED_PARTS = ("keys and values", "keys", "values")
LAYER_WAYS = ("single", "leave one out", "from below", "from above", "windows")
HEAD_WAYS = ("single", "leave one out", "single by layer")


@dataclass(frozen=True)
class KeptHeads:
    """The layers, KV heads and parts that a mask keeps; two masks that keep the same are the same run."""

    part: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]

    def restrict(self, steering: CacheSteering) -> CacheSteering:
        """The steering with these layers, heads and parts only."""
        ck, cv = (steering.ck if "keys" in self.part else 0.0), (steering.cv if "values" in self.part else 0.0)
        numbers = [
            f"{what}={','.join(map(str, chosen))}" for what, chosen in (("layers", self.layers), ("heads", self.heads))
        ]
        name = None if steering.name is None else " ".join([steering.name, f"ck={ck:g}", f"cv={cv:g}", *numbers])
        return CacheSteering(
            steering.vectors, ck, cv, layers=self.layers, heads=self.heads, slot=steering.slot, name=name
        )


@dataclass(frozen=True)
class Mask:
    """A row of an ablation: a way, and the layer or KV head that it is about (none for the whole steering)."""

    way: str
    kept: KeptHeads
    layer: int | None = None
    head: int | None = None


def layer_masks(
    steering: CacheSteering, ways: str | Sequence[str], parts: str | Sequence[str] | None, width: int, every: int = 1
) -> list[Mask]:
    """The whole steering and each of its masks over layers, part by part; with `every`, those of each n-th layer.

    Raises:
        ValueError: an unknown way or part, windows that don't fit, a steering with nothing to leave out, or `every`
            below 1.
    """
    ways = _as_tuple(ways)
    layers, heads, chosen = _frame(steering, ways, LAYER_WAYS, parts)
    if "windows" in ways and not (isinstance(width, int) and 1 <= width <= len(layers)):
        raise ValueError(
            f"A window of {width} layers doesn't fit the {len(layers)} steered ones; choose a width of 1 to"
            f" {len(layers)}."
        )
    sets: dict[str, list[tuple[int, tuple[int, ...]]]] = {
        "single": [(layer, (layer,)) for layer in layers],
        "leave one out": [(layer, tuple(x for x in layers if x != layer)) for layer in layers],
        "from below": [(layer, layers[: i + 1]) for i, layer in enumerate(layers)],
        "from above": [(layer, layers[i:]) for i, layer in enumerate(layers)],
        "windows": [(layers[i], layers[i : i + width]) for i in range(len(layers) - width + 1)],
    }
    looked_at = _each(layers, every)
    masks = [Mask("all", KeptHeads(part, layers, heads)) for part in chosen]
    return masks + [
        Mask(way, KeptHeads(part, some, heads), layer)
        for way in ways
        for part in chosen
        for layer, some in sets[way]
        if layer in looked_at
    ]


def head_masks(
    steering: CacheSteering, ways: str | Sequence[str], parts: str | Sequence[str] | None, every: int = 1
) -> list[Mask]:
    """The whole steering and each of its masks over KV heads, part by part; layer by layer in each n-th layer.

    Raises:
        ValueError: an unknown way or part, a steering with nothing to leave out, or `every` below 1.
    """
    ways = _as_tuple(ways)
    layers, heads, chosen = _frame(steering, ways, HEAD_WAYS, parts)
    looked_at = _each(layers, every)
    masks = [Mask("all", KeptHeads(part, layers, heads)) for part in chosen]
    return masks + [
        mask for way in ways for part in chosen for mask in _over_heads(way, part, layers, looked_at, heads)
    ]


def _each(layers: tuple[int, ...], every: int) -> tuple[int, ...]:
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every={every!r} picks no layers; pass 1 for all of them, 5 for each fifth.")
    return layers[::every]


def _over_heads(
    way: str, part: str, layers: tuple[int, ...], looked_at: tuple[int, ...], heads: tuple[int, ...]
) -> Iterator[Mask]:
    if way == "single by layer":
        yield from (Mask(way, KeptHeads(part, (layer,), (head,)), layer, head) for layer in looked_at for head in heads)
        return
    for head in heads:
        some = (head,) if way == "single" else tuple(x for x in heads if x != head)
        yield Mask(way, KeptHeads(part, layers, some), head=head)


def _as_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name, or several, each once."""
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))


def _frame(
    steering: CacheSteering, ways: tuple[str, ...], known: Sequence[str], parts: str | Sequence[str] | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """The layers, heads and parts that the steering has; a steering without any is refused."""
    check_cache_steering(steering)
    check_edits(steering)
    if not ways:
        raise ValueError(f"ways is empty; choose from {', '.join(known)}.")
    if unknown := [way for way in ways if way not in known]:
        raise ValueError(f"{unknown[0]!r} is not a way of leaving out; choose from {', '.join(known)}.")
    layers = steering.edited_layers
    heads = tuple(range(steering.vectors.n_kv_heads)) if steering.heads is None else tuple(steering.heads)
    there = steering.parts_added
    having = tuple(part for part in ABLATED_PARTS if all(name in there for name in part.split(" and ")))
    chosen = having if parts is None else _as_tuple(parts)
    if not chosen:
        raise ValueError(f"parts is empty; choose from {', '.join(having)}.")
    for part in chosen:
        if part not in ABLATED_PARTS:
            raise ValueError(f"{part!r} is not a part; choose from {', '.join(ABLATED_PARTS)}.")
        if part not in having:
            missing = next(name for name in part.split(" and ") if name not in there)
            raise ValueError(
                f"{steering.label!r} adds nothing to the {missing}; give them a coefficient, or leave {part!r} out of"
                " parts."
            )
    return layers, heads, chosen
