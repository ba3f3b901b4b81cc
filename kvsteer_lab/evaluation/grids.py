"""A grid of interventions, run as one evaluation: the same questions for every cell, random controls beside each, and
one tidy table.

`run_grid` asks all cells in one forked run, raises on interruption (a table of half the questions would look like a
finished one), and gives the replies of each cell by its key. What is measured of them is up to the caller; see
`measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd
from transformers import GenerationConfig

from ..interventions.base import Intervention
from ..interventions.scaled import Scaled
from ..models.model import Model
from ..stats.significance import paired_permutation
from ..tasks.base import Task
from .bands import band
from .evaluate import evaluate_all
from .interruption import EvaluationInterrupted
from .results import Results

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Grid(Generic[Key]):
    """A finished run of a grid. Made by `run_grid`.

    Attributes:
        results: the rows of all cells, controls and baselines.
        cells: the interventions by key.
        controls: the random controls of each cell; none where none were asked for.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> cells = {text: kv.CoTPrompt(text, name=text) for text in ("Think.", "Be quick.")}
        >>> grid = run_grid(model, task, cells, n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> len(grid.of("Think.")), len(grid.baseline), len(grid.questions)
        (2, 2, 2)
        >>> list(grid.table(["prompt"], lambda replies: {"tokens": replies.tokens.mean()}).columns)
        ['prompt', 'tokens']
    """

    results: Results = field(repr=False)
    cells: Mapping[Key, Intervention]
    controls: Mapping[Key, Sequence[Intervention]] = field(repr=False)

    @property
    def baseline(self) -> pd.DataFrame:
        """The replies of the baseline."""
        return self.of_label("baseline")

    @property
    def questions(self) -> list[str]:
        """The ids of the questions, in the order of the run."""
        return list(dict.fromkeys(self.results.rows.question))

    def of(self, key: Key) -> pd.DataFrame:
        """The replies of one cell.

        Args:
            key: of the cell.

        Raises:
            KeyError: no such cell.
        """
        return self.of_label(self.cells[key].label)

    def of_label(self, label: str) -> pd.DataFrame:
        """The replies of one intervention.

        Args:
            label: of a cell, a control, a baseline or another intervention of the run.

        Raises:
            ValueError: none of that name.
        """
        return self._parts[label] if label in self._parts else self.results.of(label)

    def drawn(self, key: Key) -> list[pd.DataFrame]:
        """The replies of each of a cell's controls."""
        return [self.of_label(control.label) for control in self.controls.get(key, ())]

    def beside_controls(self, key: Key, column: str = "correct", name: str = "") -> dict[str, float]:
        """Where a cell's mean of `column` stands among its controls': `random_low`, `random_high`, `p_random`, as in
        `bands.band`; empty without controls.

        Args:
            key: of the cell.
            column: what is averaged.
            name: what the average is called: the columns are then `random_NAME_low` and so on.
        """
        return band(float(self.of(key)[column].mean()), [float(part[column].mean()) for part in self.drawn(key)], name)

    def p_against(self, key: Key, label: str = "baseline") -> float:
        """The exact test of equal accuracy with another intervention of the run: McNemar's, or with several samples to
        each question the permutation test of whole questions (`kv.stats.paired_permutation`).

        Args:
            key: of the cell.
            label: of the other intervention.
        """
        ours, theirs = self.of(key), self.of_label(label)
        return paired_permutation(
            ours.correct.tolist(), theirs.correct.tolist(), ours.question.tolist(), theirs.question.tolist()
        )

    def table(self, names: Sequence[str], measure: Callable[[pd.DataFrame], Mapping[str, Any]]) -> pd.DataFrame:
        """One row a cell: its key under `names`, what `measure` makes of its replies, and where it stands among its
        controls.

        `attrs["questions"]` holds the questions' ids.

        Args:
            names: the columns of the key's parts.
            measure: from the replies of a cell to further columns; see `measures`.
        """
        rows = []
        for key in self.cells:
            place = key if isinstance(key, tuple) else (key,)
            rows.append(dict(zip(names, place, strict=True)) | dict(measure(self.of(key))) | self.beside_controls(key))
        table = pd.DataFrame(rows)
        table.attrs["questions"] = self.questions
        return table

    @cached_property
    def _parts(self) -> dict[str, pd.DataFrame]:
        return {str(label): part for label, part in self.results.rows.groupby("intervention", sort=False)}


def run_grid(
    model: Model,
    task: Task,
    cells: Mapping[Key, Intervention],
    *,
    controls: int | Mapping[Key, Sequence[Intervention]] = 0,
    beside: Sequence[Intervention] = (),
    n: int | None = 24,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | GenerationConfig | None = None,
    samples: int = 1,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> Grid[Key]:
    """Evaluate every cell of a grid, its controls and the baselines in one run.

    Args:
        model, task, n, split, seed, offset, generation, samples, batch_size, out, progress: as in `kv.evaluate`.
        cells: the interventions by key, each with a label of its own.
        controls: how many random controls each cell gets (cells must then be steerings), or the controls themselves by
            key; 0: none.
        beside: other interventions of the same run.

    Raises:
        ValueError: controls of a cell that isn't a steering, or what `kv.evaluate` refuses; before anything is
            computed.
        OSError: `out` can't be written, or another process is generating a part of the run there.
        KeyboardInterrupt: the run was interrupted; with `out`, it goes on there when it is called again.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> vectors = kv.extract(model, pairs, progress=False)
        >>> cells = {layer: kv.CacheSteering(vectors, 0, 2, layers=[layer]) for layer in (1, 2)}
        >>> grid = run_grid(model, task, cells, controls=2, n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> {layer: len(grid.drawn(layer)) for layer in cells}
        {1: 2, 2: 2}
    """
    drawn = dict(controls) if isinstance(controls, Mapping) else _draw(cells, controls, seed)
    try:
        results = evaluate_all(
            model,
            task,
            [*beside, *cells.values(), *chain(*drawn.values())],
            n=n,
            split=split,
            seed=seed,
            offset=offset,
            generation=generation,
            samples=samples,
            batch_size=batch_size,
            out=out,
            progress=progress,
        )
    except EvaluationInterrupted as stopped:
        kept = "" if out is None else f": {stopped.kept}"
        raise KeyboardInterrupt(f"The grid was interrupted before all cells were finished{kept}.") from None
    if not results.complete:
        raise OSError(f"Another process has not finished its part of the grid in {out}; do the same again after it.")
    return Grid(results, dict(cells), drawn)


def _draw(cells: Mapping[Key, Intervention], n: int, seed: int) -> dict[Key, Sequence[Intervention]]:
    if n == 0:
        return {}
    drawn: dict[Key, Sequence[Intervention]] = {}
    for key, cell in cells.items():
        if not isinstance(cell, Scaled):
            raise ValueError(
                f"{cell.label!r} isn't a steering, so no random vectors match it; pass its controls by key, or"
                " controls=0."
            )
        drawn[key] = cell.controls(n, seed)
    return drawn
