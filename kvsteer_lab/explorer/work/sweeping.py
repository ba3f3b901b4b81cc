"""A sweep over layers, KV heads or coefficients: forked decodes in chunks of whole cells, so that it can be stopped and
keeps what is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ...generation.generate import check_prompts, prepare, read_row
from ...generation.outputs import Generation
from ...interventions.base import Intervention, Nothing
from ..state import CELL_FIELDS, ExplorerState, Measure
from ..workspace import Asked, Bench
from .comparing import generation_settings, judge
from .grids import Cell, Grid, make_grid
from .running import run_rows

CHUNK_SECONDS = 0.4
"""About how long a chunk shall take: other work waits no longer than that."""
_MOST_ROWS = 256


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
        return self.seconds / len(self.done) * (len(self.grid.cells) - len(self.done))

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
        """Every knob that the texts of a cell depend on, as the sweep had it, with the cell's own on top."""
        return {name: getattr(self.state, name) for name in CELL_FIELDS} | dict(cell.changes)

    def to_frame(self) -> pd.DataFrame:
        """One row a finished cell: `row`, `column`, `ck`, `cv`, `layers`, `heads`, `n` (texts), and every measure;
        behind a row for the baseline.
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


def asked_in_sweep(bench: Bench, state: ExplorerState) -> tuple[Asked, ...]:
    """The prompts of every cell: the user's own text, or the first questions of the split.

    Raises:
        ValueError: test questions, on which nothing is chosen, or what `bench.asked` refuses.
    """
    if state.task is None:
        return (bench.asked(state),)
    if state.split == "test":
        raise ValueError(
            "Settings are never chosen on test questions; sweep on split 'dev' and confirm once on test, with"
            " kv.evaluate."
        )
    task = bench.task(state.task)
    return tuple(
        Asked(task.chat(question), task, question) for question in bench.questions(state, state.sweep_questions)
    )


def run_sweep(
    bench: Bench, state: ExplorerState, cancelled: threading.Event, on_chunk: Callable[[Sweep], None]
) -> Iterator[None]:
    """Run a sweep, cell after cell, some of them together in one forked decode; yields where other work may go first.

    Cells with the same setting are decoded once. All texts are those of `kv.generate`.

    Args:
        bench: the model and what is at hand.
        state: what is swept.
        cancelled: stops it at the next token; the chunk that runs is dropped.
        on_chunk: is given the sweep before the first chunk and after every one.

    Raises:
        ValueError: whatever the state asks for that can't be done; before anything is computed.
        CancelledError: `cancelled` was set.
    """
    grid, asked = make_grid(bench, state), asked_in_sweep(bench, state)
    sweep = Sweep(state, grid, asked)
    by_setting: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in grid.cells:
        by_setting.setdefault(
            (cell.steering.ck, cell.steering.cv, cell.steering.scope, cell.steering.heads), []
        ).append(cell)
    prompts, settings = [each.prompt for each in asked], generation_settings(state)
    bench.check_slot(asked, state.slot)
    check_prompts(bench.model, prompts, [grid.cells[0].steering], offset=state.offset, generation=settings, samples=1)
    on_chunk(sweep)
    yield
    start = time.perf_counter()
    (baseline,) = _decode(bench, state, asked, [Nothing()], cancelled)
    sweep = replace(sweep, baseline=baseline, seconds=time.perf_counter() - start)
    on_chunk(sweep)
    yield
    waiting, size, worked = list(by_setting.values()), 1, 0.0
    while waiting:
        chunk, waiting = waiting[:size], waiting[size:]
        start = time.perf_counter()
        methods = [replace(cells[0].steering, name=f"cell {i}") for i, cells in enumerate(chunk)]
        found = zip(chunk, _decode(bench, state, asked, methods, cancelled), strict=True)
        done = {(cell.row, cell.column): texts for cells, texts in found for cell in cells}
        took = time.perf_counter() - start
        worked += took
        sweep = replace(sweep, done={**sweep.done, **done}, seconds=worked)
        most = max(1, _MOST_ROWS // len(asked))
        size = min(2 * size, most) if took < CHUNK_SECONDS else max(1, size // 2) if took > 2 * CHUNK_SECONDS else size
        on_chunk(sweep)
        yield


def _decode(
    bench: Bench,
    state: ExplorerState,
    asked: Sequence[Asked],
    methods: Sequence[Intervention],
    cancelled: threading.Event,
) -> list[tuple[Text, ...]]:
    """The texts of each method, in the order of the prompts: one prefill a prompt, all rows together."""
    settings, rows, _ = prepare(
        bench.model,
        [a.prompt for a in asked],
        methods,
        chat=True,
        offset=state.offset,
        generation=generation_settings(state),
        samples=1,
    )
    found: dict[int, list[int]] = {}
    for batch in run_rows(bench.model, rows, settings, state.seed, cancelled, batch_size=_MOST_ROWS):
        found.update(batch)
    texts: list[list[Text]] = [[] for _ in methods]
    for i, row in enumerate(rows):
        prompt, method = divmod(i, len(methods))
        generation = read_row(bench.model, row, (prompt, methods[method].label, 0), found[i], settings)
        texts[method].append(Text(asked[prompt], generation, judge(asked[prompt], methods[method], generation)))
    return [tuple(own) for own in texts]
