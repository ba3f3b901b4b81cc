"""The search for coefficients: every method gets the same number of cells, the range is extended while the best cell
lies on its edge, and the chosen point is confirmed once on questions that the search never saw.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..._util.locks import one_writer
from ...interventions.base import Intervention, Nothing
from ...models.model import Model
from ...tasks.base import Task
from ..evaluate import evaluate_all
from ..grids import run_grid
from ..measures import measure_briefly
from ..outcomes.divergence import measure_divergence
from ..results import Results
from ..runs import OtherRunError
from .methods import Build, Search
from .objectives import Bounds, Goal, Objective

_WAIT = 2.0  # seconds for another process that is about to end


@dataclass(frozen=True)
class Tuning:
    """A finished search. Made by `tune`.

    Attributes:
        cells: one row a cell that was tried: `method`, `variant`, `dose`, `round`, `n`, `accuracy` with its Wilson
            interval `low`, `high`, `reasoned`, `tokens`, another objective and bounded outcomes, `chosen`.
        best: the chosen intervention of each method.
        on_edge: methods whose best dose still lies at an end of what was tried.
        baseline: the same measures of the baseline, which every search tries as a cell of dose 0.
        objective: the column of `cells` that was maximised: `"accuracy"`, `"reasoned"`, ...
        flat: whether no cell differed from the baseline beyond noise; the search then stopped after its first round.
        no_better: methods whose best cell is not above the baseline.
        questions: ids of the questions that were used.
        model, task, searches, settings: what was searched, and how.
    """

    cells: pd.DataFrame = field(repr=False)
    best: Mapping[str, Intervention]
    on_edge: tuple[str, ...]
    baseline: Mapping[str, Any]
    objective: str
    flat: bool
    no_better: tuple[str, ...]
    questions: tuple[str, ...] = field(repr=False)
    model: Model = field(repr=False)
    task: Task = field(repr=False)
    searches: tuple[Search, ...] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)

    def confirm(
        self,
        others: Sequence[Intervention] = (),
        *,
        n: int | None = 200,
        split: str = "test",
        seed: int = 0,
        controls: int = 40,
        out: str | Path | None = None,
        progress: bool = True,
    ) -> Results:
        """Run each method's chosen point on questions that the search never saw. Do it once, when everything is chosen.

        Args:
            others: what else to run beside them: prompts, forced prefixes.
            n, split, seed, out, progress: as in `kv.evaluate`.
            controls: random controls of each chosen point; 0: none.

        Raises:
            ValueError: some of the questions were used in the search, or a chosen point that has no random controls.
            KeyboardInterrupt: the run was interrupted; with `out`, it goes on there when it is called again.
        """
        asked = self.task.questions(split, n, seed)
        check_disjoint(self.questions, [q.id for q in asked])
        drawn = [c for s in self.searches if controls for c in s.controls(self.best[s.name], controls, seed)]
        methods = [*others, *self.best.values(), *drawn]
        return evaluate_all(
            self.model, self.task, methods, n=n, split=split, seed=seed, out=out, progress=progress, **self.settings
        )


def check_disjoint(tuned: Sequence[str], tested: Sequence[str]) -> None:
    """Refuse questions that were used both to choose and to test.

    Args:
        tuned, tested: ids of questions.

    Raises:
        ValueError: they have questions in common.

    Example:
        >>> check_disjoint(["a", "b"], ["c"])
    """
    both = sorted(set(tuned) & set(tested))
    if both:
        raise ValueError(
            f"{len(both)} questions were used in tuning and are among the test questions ({both[0]!r}, ...); test on"
            " another split."
        )


def tune(
    model: Model,
    task: Task,
    searches: Search | Sequence[Search],
    *,
    cells: int = 24,
    n: int | None = 100,
    split: str = "dev",
    seed: int = 0,
    doses: tuple[float, float] = (0.25, 8.0),
    extensions: int = 3,
    objective: Objective = "correct",
    bounds: Bounds | None = None,
    stop_when_flat: bool = True,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> Tuning:
    """Search each method's coefficients on the same development questions, as forked grids of one run a round.

    Every method gets `cells` cells: its variants times log-even doses in `doses`, where a dose is the norm of what is
    added over the norm of what it is added to. While some method's best dose lies on an edge of what was tried, a round
    of `cells // 4` more is run for every method: outwards for a best on an edge, around the best for the others. The
    best cell has the largest objective; among equals the smallest dose wins.

    The baseline is in every round. Where no cell of the first one differs from it beyond noise (paired tests of the
    objective, Holm-corrected over all cells, 5%), the objective is flat, a best dose would be noise, and the search
    stops there with a warning. With fewer questions than such a test needs (9 for 12 cells), it goes on unless every
    cell is the baseline's equal.

    Args:
        model, task, n, split, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`; a round's run
            is kept in `out/round-0` and so on.
        searches: the methods.
        cells: of each method in the first round; a multiple of its number of variants.
        doses: smallest and largest dose of the first round.
        extensions: rounds after the first, at most.
        objective: accuracy (`"correct"`), the share of replies that reason (`"reasoned"`), the mean of another built-in
            outcome (`"tokens"`, `"connectives"`, `"kl"`, ...) or of one of your own; it is maximised.
        bounds: of the means of built-in outcomes, for a cell to be chosen: `{"tokens": (None, 60), "kl": (None, 2)}`.
        stop_when_flat: `False` searches on where no cell differs from the baseline.

    Raises:
        ValueError: the test split, no searches, equal names, a search without variants, a number of cells that the
            variants don't divide, doses that aren't positive, a negative number of extensions, an unknown objective or
            bound, or a folder that holds another search's rounds; and later, no cell of a method within the bounds.
        OSError: `out` can't be written, or another process is tuning there.
        KeyboardInterrupt: the search was interrupted; with `out`, it goes on there when it is called again.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> search = kv.CacheSearch(kv.extract(model, pairs, progress=False), key_shares=(0,))
        >>> few = dict(cells=3, n=2, extensions=0, generation={"max_new_tokens": 8}, progress=False)
        >>> tuning = kv.tune(model, task, search, doses=(1, 4), objective="reasoned", **few)
        >>> [round(dose, 3) for dose in tuning.cells.dose]
        [1.0, 2.0, 4.0]
    """
    chosen = [searches] if isinstance(searches, Search) else list(searches)
    goal = Goal.of(objective, bounds)
    _check(chosen, split, doses, extensions)
    questions = task.questions(split, n, seed)
    if not questions:
        raise ValueError(f"The {split} split of task {task.name!r} gave no questions; tuning needs some.")
    prompts = [task.chat(q) for q in questions]
    settings: dict[str, Any] = dict(offset=offset, generation=generation, batch_size=batch_size)
    variants = {s.name: s.variants(model, prompts) for s in chosen}
    grids = {name: _first_grid(name, builds, cells, doses) for name, builds in variants.items()}
    table, on_edge, flat = pd.DataFrame(), tuple(grids), False
    for turn in range(extensions + 1):
        built = {
            (name, v, d): variants[name][v](d, f"{name}, {v}, dose {d:.4g}")
            for name, grid in grids.items()
            for v, d in grid
        }
        place = None if out is None else Path(out) / f"round-{turn}"
        with nullcontext() if out is None else one_writer(Path(out), wait=_WAIT), _told_of_rounds(place, turn):
            grid = run_grid(
                model,
                task,
                built,
                n=n,
                split=split,
                seed=seed,
                offset=offset,
                generation=generation,
                batch_size=batch_size,
                out=place,
                progress=progress,
            )
        if goal.needs_divergence:
            asked = [Nothing(), *built.values()]
            measured = measure_divergence(grid.results, model, task, asked, offset=offset)
            grid = replace(grid, results=measured)
        cells_now = grid.table(("method", "variant", "dose"), lambda rows: measure_briefly(rows) | goal.measure(rows))
        cells_now.insert(3, "round", turn)
        table = pd.concat([table, cells_now], ignore_index=True)
        best = {name: _best(table, name, goal) for name in variants}
        if turn == 0:
            plain = grid.results.rows[grid.results.rows.intervention == "baseline"]
            baseline = measure_briefly(plain) | goal.measure(plain) if len(plain) else {}
            flat = stop_when_flat and goal.is_flat(grid.results.rows, [cell.label for cell in built.values()])
            if flat:
                warnings.warn(
                    f"The objective {goal.column!r} is flat: none of {len(built)} cells differs from the baseline"
                    f" beyond noise on {len(questions)} questions, so there is nothing to tune; take stronger doses,"
                    " another objective (an outcome such as 'tokens' or 'connectives'), or more questions.",
                    stacklevel=2,
                )
        on_edge = tuple(name for name, row in best.items() if _is_edge(table, row))
        if flat or not on_edge:
            break
        grids = {name: _extend(table, row, max(1, cells // 4)) for name, row in best.items()}
    if on_edge and not flat:
        warnings.warn(
            f"The best dose of {', '.join(on_edge)} lies on an edge of what was tried; raise extensions or widen"
            " doses.",
            stacklevel=2,
        )
    table["chosen"] = table.index.isin([row.name for row in best.values()])
    picked = {name: variants[name][row.variant](float(row.dose), name) for name, row in best.items()}
    at_most = baseline.get(goal.column, -math.inf)
    no_better = tuple(name for name, row in best.items() if row[goal.column] <= at_most)
    asked_ids = tuple(q.id for q in questions)
    return Tuning(
        table,
        picked,
        on_edge,
        baseline,
        goal.column,
        flat,
        no_better,
        asked_ids,
        model,
        task,
        tuple(chosen),
        settings,
    )


@contextmanager
def _told_of_rounds(place: Path | None, turn: int) -> Iterator[None]:
    """Say what to do where a later round was kept for a best dose that has moved since."""
    try:
        yield
    except OtherRunError as error:
        if place is None or turn == 0:
            raise
        raise ValueError(
            f"{place} holds a round of other cells than those that the rounds before it lead to now (a mended rule or"
            f" another objective moves the best dose). Delete round-{turn} and later ones in {place.parent} and tune"
            " again; the rounds before are kept."
        ) from error


def _check(searches: Sequence[Search], split: str, doses: tuple[float, float], extensions: int) -> None:
    if split == "test":
        raise ValueError(
            "Coefficients are never chosen on test questions; tune on split='dev' and call Tuning.confirm for the test."
        )
    if not searches:
        raise ValueError("There is nothing to tune; pass at least one search, such as kv.CacheSearch(vectors).")
    names = [s.name for s in searches]
    if len(set(names)) < len(names):
        raise ValueError(f"Two searches have the same name ({', '.join(names)}); pass name=... to tell them apart.")
    if not 0 < doses[0] < doses[1] < float("inf"):
        raise ValueError(f"Doses must be two positive numbers, the smaller one first, not {doses}.")
    if extensions < 0:
        raise ValueError(f"extensions={extensions} leaves out the first round; pass 0 for that round alone.")


def _first_grid(
    name: str, builds: Mapping[str, Build], cells: int, doses: tuple[float, float]
) -> list[tuple[str, float]]:
    if not builds:
        raise ValueError(f"The search {name!r} has no variants; give it at least one layer, share of keys or steering.")
    if cells < 3 * len(builds) or cells % len(builds):
        raise ValueError(
            f"{name!r} has {len(builds)} variants, and {cells} cells don't give each of them the same three or more"
            f" doses; choose a multiple of {len(builds)}."
        )
    return [(v, float(d)) for v in builds for d in np.geomspace(*doses, cells // len(builds))]


def _best(table: pd.DataFrame, name: str, goal: Goal) -> pd.Series:
    own = table[(table.method == name) & goal.allowed(table)]
    if own.empty:
        bounds = ", ".join(f"{name} in {low} to {high}" for name, (low, high) in goal.bounds.items())
        raise ValueError(f"No cell of {name!r} lies within the bounds ({bounds}); widen them, or take smaller doses.")
    return own.sort_values([goal.column, "dose"], ascending=[False, True], kind="stable").iloc[0]


def _tried(table: pd.DataFrame, best: pd.Series) -> list[float]:
    return sorted(table[(table.method == best.method) & (table.variant == best.variant)].dose)


def _is_edge(table: pd.DataFrame, best: pd.Series) -> bool:
    tried = _tried(table, best)
    return best.dose in (tried[0], tried[-1])


def _extend(table: pd.DataFrame, best: pd.Series, n: int) -> list[tuple[str, float]]:
    """`n` more doses of the best variant: beyond the edge that it lies on, or between its neighbours."""
    tried = _tried(table, best)
    at = tried.index(best.dose)
    if at in (0, len(tried) - 1):
        ratio = tried[0] / tried[1] if at == 0 else tried[-1] / tried[-2]
        return [(best.variant, float(best.dose * ratio**i)) for i in range(1, n + 1)]
    below = np.geomspace(tried[at - 1], best.dose, n // 2 + 2)[1:-1]
    above = np.geomspace(best.dose, tried[at + 1], n - n // 2 + 2)[1:-1]
    return [(best.variant, float(d)) for d in (*below, *above)]
