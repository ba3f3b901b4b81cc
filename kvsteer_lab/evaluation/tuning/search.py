"""The search for coefficients: every method gets the same number of cells, and the range is extended while the best
cell lies on its edge.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..._util.locks import one_writer
from ...interventions.base import Nothing
from ...models.model import Model
from ...tasks.base import Task
from ..grids import run_grid
from ..measures import measure_briefly
from ..outcomes.divergence import measure_divergence
from ..runs import OtherRunError
from .methods import Search
from .objectives import Bounds, Goal, Objective
from .rounds import best_cell, first_round, is_edge, next_round
from .tuning import Tuning

_WAIT = 2.0  # seconds for another process that is about to end


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

    Every method gets `cells` cells: its variants times log-even relative strengths in `doses`, where a relative
    strength is the norm of what is added over the norm of what it is added to. While some method's best relative
    strength lies on an edge of what was tried, a round of `cells // 4` more is run for every method: outwards for a
    best on an edge, around the best for the others. The best cell has the largest objective; among equals the smallest
    relative strength wins.

    The baseline is in every round. Where no cell of the first one differs from it beyond noise (paired tests of the
    objective, Holm-corrected over all cells, 5%), the objective is flat, a best relative strength would be noise, and
    the search stops there with a warning. With fewer questions than such a test needs (9 for 12 cells), it goes on
    unless every cell is the baseline's equal.

    Args:
        model, task, n, split, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`; a round's run
            is kept in `out/round-0` and so on.
        searches: the methods.
        cells: of each method in the first round; a multiple of its number of variants.
        doses: smallest and largest relative strength of the first round.
        extensions: rounds after the first, at most.
        objective: accuracy (`"correct"`), the share of replies that reason (`"reasoned"`), the mean of another built-in
            outcome (`"tokens"`, `"connectives"`, `"kl"`, ...) or of one of your own; it is maximised.
        bounds: of the means of built-in outcomes, for a cell to be chosen: `{"tokens": (None, 60), "kl": (None, 2)}`.
        stop_when_flat: `False` searches on where no cell differs from the baseline.

    Raises:
        ValueError: the test split, no searches, equal names, a search without variants, a number of cells that the
            variants don't divide, relative strengths that aren't positive, a negative number of extensions, an unknown
            objective or bound, or a folder that holds another search's rounds; and later, no cell of a method within
            the bounds.
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
    grids = {name: first_round(name, builds, cells, doses) for name, builds in variants.items()}
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
        best = {name: best_cell(table, name, goal) for name in variants}
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
        on_edge = tuple(name for name, row in best.items() if is_edge(table, row))
        if flat or not on_edge:
            break
        grids = {name: next_round(table, row, max(1, cells // 4)) for name, row in best.items()}
    if on_edge and not flat:
        warnings.warn(
            f"The best relative strength of {', '.join(on_edge)} lies on an edge of what was tried; raise extensions or"
            " widen doses.",
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
    """Say what to do where a later round was kept for a best relative strength that has moved since."""
    try:
        yield
    except OtherRunError as error:
        if place is None or turn == 0:
            raise
        raise ValueError(
            f"{place} holds a round of other cells than those that the rounds before it lead to now (a mended rule or"
            f" another objective moves the best relative strength). Delete round-{turn} and later ones in"
            f" {place.parent} and tune again; the rounds before are kept."
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
