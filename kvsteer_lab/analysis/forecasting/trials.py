"""Trials of forecasts: the measured effects of many vectors at many places, each beside the forecast that was made
before it was tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from ..._util.progress import bar
from ...evaluation.grids import run_grid
from ...interventions.cache import CacheSteering
from ...models.model import Model
from ...stats.shares import paired_difference
from ...tasks.base import Task
from ...vectors.extraction import PairDifferences, extract_pairs
from ...vectors.indices import check_indices
from ...vectors.norms import slot_norms
from ...vectors.pairs import ContrastiveSet
from ..pairs.grams import CACHE_PARTS
from .forecast import forecast_values


@dataclass(frozen=True)
class PairSet:
    """Pairs that a vector is made of, and what was done to them.

    Args:
        style: how the positive sides answer.
        pairs: how many; two at least, for one can't be seen to agree.
        shots: examples in each prompt.
        draw: tells apart sets that are alike in everything else.
        swapped: planted: the share of pairs whose sides are exchanged, as if they were labelled wrongly.
        noise: planted: Gaussian noise added to each pair's difference, of so many times the pairs' size in each layer's
            keys and values.

    Raises:
        ValueError: fewer than two pairs, a share outside 0 to 1, or noise below zero.

    >>> PairSet("stepwise", 8, swapped=0.5).label
    'stepwise, 8 pairs of 3 shots, draw 0, 0.5 swapped'
    """

    style: str
    pairs: int
    shots: int = 3
    draw: int = 0
    swapped: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.pairs < 2:
            raise ValueError(
                f"A forecast takes at least two pairs, not {self.pairs}: how far pairs agree can't be seen in one."
            )
        if not 0 <= self.swapped <= 1 or not 0 <= self.noise < float("inf"):
            raise ValueError(
                f"swapped is a share from 0 to 1, and noise is finite and not negative, not {self.swapped} and"
                f" {self.noise}."
            )

    @property
    def label(self) -> str:
        planted = f", {self.swapped:g} swapped" * bool(self.swapped) + f", noise {self.noise:g}" * bool(self.noise)
        return f"{self.style}, {self.pairs} pairs of {self.shots} shots, draw {self.draw}{planted}"


@dataclass(frozen=True)
class Place:
    """Where a vector is added: the keys or the values of exactly these layers (`None`: layer 1 and above).

    Raises:
        ValueError: another part.

    >>> Place("keys", (2, 3)).label
    'keys, layers 2, 3'
    """

    part: Literal["keys", "values"] = "values"
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.part not in CACHE_PARTS:
            raise ValueError(f"The part is {self.part!r}; choose 'keys' or 'values'.")

    @property
    def label(self) -> str:
        return f"{self.part}, " + (
            "layers 1+"
            if self.layers is None
            else f"layer{'s' * (len(self.layers) != 1)} {', '.join(map(str, self.layers))}"
        )


def realised_effects(
    model: Model,
    task: Task,
    sets: Sequence[PairSet],
    places: Sequence[Place],
    dose: float,
    *,
    n: int | None = 24,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Every set's vector at every place, all in one forked run and at one relative strength; the forecasts are made
    before it begins.

    The relative strength is c |S| / |slot|, averaged over the steered layers and the prompts, so that no vector does
    more merely because it is longer; one that is short because its pairs cancel gets a larger coefficient. No two sets
    of one style and number of shots have a pair in common.

    Args:
        model, task, n, split, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`.
        sets: which pairs; the differences of all of them are kept in memory.
        places: where their vectors are added.
        dose: the same for all points.

    Returns:
        One row per set and place. What was varied: `model`, `set` and `place` (names), `style`, `shots`, `pairs`,
        `draw`, `swapped`, `noise`, `part`, `layers`. What was known before: `agreement`, `stability`, `signal_to_noise`
        (see `analysis.forecast`, over the steered layers together), and `norm`, the vector's relative strength at
        coefficient 1. What was done: `dose`, `coefficient`. What came of it, on `n` questions: `adopted`, the share of
        replies in the set's style; `effect` with `low`, `high`, that share minus the baseline's; `accuracy`, and `gain`
        with `gain_low`, `gain_high`, accuracy minus the baseline's. Intervals are Newcombe's for paired shares (1998),
        which don't shrink to nothing where all replies are alike; the vectors are taken as they are.
        `attrs["questions"]` holds the questions' ids.

    Raises:
        ValueError: no sets or places, two that are the same, a relative strength that isn't positive, a place where a
            vector is zero, or what `kv.evaluate` and `ContrastiveSet.few_shot` refuse; before anything is generated.
        KeyboardInterrupt: the extraction or the run was interrupted; with `out`, the replies go on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> sets = [kv.analysis.PairSet("stepwise", pairs=2, shots=1, draw=draw) for draw in (0, 1)]
        >>> places = [kv.analysis.Place("values", layers=(1,))]
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.realised_effects(model, task, sets, places, dose=4.0, **brief)
        >>> table[["draw", "place", "n"]].values.tolist()
        [[0, 'values, layer 1', 2], [1, 'values, layer 1', 2]]
    """
    _check(model, sets, places, dose)
    differences = _extract(model, task, sets, seed, batch_size, progress)
    own = slot_norms(model, [task.chat(q) for q in task.questions(split, n, seed)], batch_size=batch_size)
    size = {part: norms.double() for part, norms in own.items()}
    points: dict[str, dict[str, Any]] = {}
    cells: dict[str, CacheSteering] = {}
    for pairs in sets:
        vectors = differences[pairs].mean()
        for place in places:
            layers = _scope(place, model.n_layers)
            before = forecast_values(differences[pairs], layers, place.part, seed=seed)
            long = getattr(vectors, place.part).double().flatten(1).norm(dim=-1)
            norm = float((long / size[place.part].clamp_min(1e-12))[:, layers].mean())
            if norm < 1e-5:
                raise ValueError(
                    f"The vector of {pairs.label!r} is zero in {place.label}, so no coefficient gives it a dose; leave"
                    " out the set or the place."
                )
            c, name = dose / norm, f"{pairs.label}; {place.label}"
            ck, cv = (c, 0.0) if place.part == "keys" else (0.0, c)
            cells[name] = CacheSteering(vectors, ck, cv, layers=place.layers, name=name)
            varied = dict(model=model.name, set=pairs.label, place=place.label, style=pairs.style, shots=pairs.shots)
            varied |= dict(pairs=pairs.pairs, draw=pairs.draw, swapped=pairs.swapped, noise=pairs.noise)
            where = dict(part=place.part, layers=tuple(layers))
            points[name] = varied | where | before | dict(norm=norm, dose=dose, coefficient=c)
    grid = run_grid(
        model,
        task,
        cells,
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    table = pd.DataFrame(
        [point | _effect(grid.of(name), grid.baseline, str(point["style"])) for name, point in points.items()]
    )
    table.attrs["questions"] = grid.questions
    return table


def _check(model: Model, sets: Sequence[PairSet], places: Sequence[Place], dose: float) -> None:
    for what, given in (("sets of pairs", sets), ("places", places)):
        if not given:
            raise ValueError(f"There are no {what} to look at; name at least one.")
        if len(set(given)) < len(given):
            raise ValueError(
                f"Two of the {what} are the same; tell sets apart by their draw, and name each place once."
            )
    if not 0 < dose < float("inf"):
        raise ValueError(f"The dose must be positive and finite, not {dose}.")
    for place in places:
        if not _scope(place, model.n_layers):
            raise ValueError(f"{place} has no layers; name at least one, or leave them out for layer 1 and above.")


def _scope(place: Place, n_layers: int) -> list[int]:
    return list(range(1, n_layers)) if place.layers is None else check_indices("layer", place.layers, n_layers)


def _extract(
    model: Model, task: Task, sets: Sequence[PairSet], seed: int, batch_size: int, progress: bool
) -> dict[PairSet, PairDifferences]:
    """Each set's differences: one contrastive set a style and number of shots, cut into disjoint parts."""
    kinds: dict[tuple[str, int], list[PairSet]] = {}
    for pairs in sets:
        kinds.setdefault((pairs.style, pairs.shots), []).append(pairs)
    made = {
        (style, shots): ContrastiveSet.few_shot(
            task, model.tokenizer, style=style, n=sum(p.pairs for p in own), shots=shots, seed=seed
        )
        for (style, shots), own in kinds.items()
    }
    found: dict[PairSet, PairDifferences] = {}
    with bar(sum(map(len, made.values())), "extract", "pair", progress) as shown:
        for kind, own in kinds.items():
            every, start = extract_pairs(model, made[kind], batch_size=batch_size, progress=False), 0
            for number, pairs in enumerate(own):
                found[pairs] = _planted(every.take(range(start, start + pairs.pairs)), pairs, seed + number)
                start += pairs.pairs
            shown.update(len(every))
    return found


def _planted(differences: PairDifferences, pairs: PairSet, seed: int) -> PairDifferences:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.ones(pairs.pairs)
    signs[torch.randperm(pairs.pairs, generator=generator)[: round(pairs.swapped * pairs.pairs)]] = -1

    def plant(part: Tensor) -> Tensor:
        noise = torch.randn(part.shape, generator=generator) / part[0, 0].numel() ** 0.5
        size = part.flatten(2).square().sum(-1).mean(0).sqrt()
        return signs[:, None, None, None] * part + pairs.noise * size[:, None, None] * noise

    return PairDifferences(plant(differences.keys), plant(differences.values), differences.card)


def _effect(replies: pd.DataFrame, plain: pd.DataFrame, style: str) -> dict[str, Any]:
    found: dict[str, Any] = dict(n=len(replies))
    for ours, theirs, name, effect, prefix in (
        (replies["style"] == style, plain["style"] == style, "adopted", "effect", ""),
        (replies.correct, plain.correct, "accuracy", "gain", "gain_"),
    ):
        change = paired_difference(ours.tolist(), theirs.tolist())
        found |= {name: ours.mean(), effect: change.value, f"{prefix}low": change.low, f"{prefix}high": change.high}
    return found
