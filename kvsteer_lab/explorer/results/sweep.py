"""A sweep of one steering over layers, KV heads or coefficients: its cells, their texts, and measures of the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...generation.outputs import Generation
from ...interventions.cache import CacheSteering
from ..state import CELL_FIELDS, ExplorerState, Measure
from .comparison import Asked


@dataclass(frozen=True)
class Cell:
    """One setting: where it lies in the heatmap, its steering, and what it would change in the state."""

    row: int
    column: int
    steering: CacheSteering
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A heatmap's frame.

    Attributes:
        title, row_title, column_title: what is swept.
        rows, columns: their names.
        cells: some or all of rows x columns.
    """

    title: str
    row_title: str
    column_title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Text:
    """One generation of a cell, and its verdict."""

    asked: Asked
    generation: Generation
    verdict: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep as far as it is done: a value of its own after each chunk, so that what is drawn or written holds still.

    Attributes:
        state: what it was started with.
        grid: its frame.
        asked: the prompts of every cell.
        baseline: the texts without steering.
        done: by row and column, the texts of the cells that are finished.
        seconds: how long it has run.
        complete: whether all cells are finished.
    """

    state: ExplorerState
    grid: Grid
    asked: tuple[Asked, ...]
    baseline: tuple[Text, ...] = ()
    done: Mapping[tuple[int, int], tuple[Text, ...]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        return len(self.done) == len(self.grid.cells)

    @property
    def remaining(self) -> float | None:
        """Seconds that the rest will take at the pace so far; `None` before there is a pace."""
        if not self.done:
            return None
        # cells that are decoded together take less time each, so this is rather too much than too little
        return self.seconds / len(self.done) * (len(self.grid.cells) - len(self.done))

    @property
    def at_most(self) -> float | None:
        """Before any cell is done: seconds that all of them would take one by one, at the baseline's pace."""
        return self.seconds * len(self.grid.cells) if self.baseline and not self.done else None

    def belongs_to(self, state: ExplorerState) -> bool:
        """Whether the sweep is of this state's setting, but for what its cells change themselves."""
        own = {name for cell in self.grid.cells for name in cell.changes}
        return not (self.state.difference(state) & {*CELL_FIELDS, "sweep", "sweep_questions"}) - own

    def value(self, texts: Sequence[Text], measure: Measure) -> float | None:
        """A measure over texts: a share of them, or their mean length in tokens; `None` where it isn't defined."""
        if not texts:
            return None
        if measure == "changed":
            plain = [t.generation.answer for t in self.baseline]
            return sum(a.generation.answer != b for a, b in zip(texts, plain, strict=True)) / len(texts)
        key = {"reasoned": "reasoned", "accuracy": "correct", "tokens": "tokens", "loops": "loop"}[measure]
        values = [t.verdict.get(key) for t in texts]
        return None if None in values else float(sum(values)) / len(values)  # type: ignore[arg-type]

    def values(self, measure: Measure) -> list[list[float | None]]:
        """The heatmap: rows of columns, `None` where nothing is done."""
        rows, columns = range(len(self.grid.rows)), range(len(self.grid.columns))
        return [[self.value(self.done.get((i, j), ()), measure) for j in columns] for i in rows]

    def cell(self, row: int, column: int) -> Cell | None:
        """The cell at a place of the heatmap, if the grid has one there."""
        return next((cell for cell in self.grid.cells if (cell.row, cell.column) == (row, column)), None)

    def setting(self, cell: Cell) -> dict[str, Any]:
        """Every setting that the texts of a cell depend on, as the sweep had it, with the cell's own on top."""
        return {name: getattr(self.state, name) for name in CELL_FIELDS} | dict(cell.changes)

    def to_frame(self) -> pd.DataFrame:
        """One row a finished cell: `row`, `column`, `ck`, `cv`, `layers`, `heads`, `n` (texts), and every measure;
        after a row for the baseline.
        """
        measures: tuple[Measure, ...] = ("reasoned", "accuracy", "tokens", "loops", "changed")
        table: list[dict[str, Any]] = []
        if self.baseline:
            table.append(
                dict(row="baseline", column="", n=len(self.baseline))
                | {m: self.value(self.baseline, m) for m in measures}
            )
        for (i, j), texts in self.done.items():
            cell = self.cell(i, j)
            assert cell is not None
            own = cell.steering
            setting = dict(ck=own.ck, cv=own.cv, layers=own.scope, heads=own.heads, n=len(texts))
            table.append(
                dict(row=self.grid.rows[i], column=self.grid.columns[j], **setting)
                | {m: self.value(texts, m) for m in measures}
            )
        columns = ["row", "column", "ck", "cv", "layers", "heads", "n", *measures]
        return pd.DataFrame(table).reindex(columns=columns)
