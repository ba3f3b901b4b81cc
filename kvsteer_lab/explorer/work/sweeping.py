"""A sweep over layers, KV heads or coefficients, in chunks of whole cells: after a stop, finished cells are whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...generation.generate import check_prompts, prepare, read_row
from ...interventions.base import Intervention, Nothing
from ..results.comparison import Asked
from ..results.sweep import Cell, Grid, Sweep, Text
from ..state import ExplorerState
from ..threads import Cancelled, CancelledError, Interrupted
from ..workspace import Workspace
from .comparing import generation_settings, judge
from .grids import make_grid
from .running import OnTokens, run_rows

CHUNK_SECONDS = 6.0
"""A chunk grows, cell by cell cheaper, until it takes so long. Other work doesn't wait for it: the chunk that runs is
dropped at the next token, and done later.
"""
_MOST_ROWS = 256
_MANY = 8  # columns: with more, every eighth comes first, then those halfway between, and so on


def asked_in_sweep(workspace: Workspace, state: ExplorerState) -> tuple[Asked, ...]:
    """The prompts of every cell: the user's own text, or the first questions of the split.

    Raises:
        ValueError: test questions, on which nothing is chosen, or what `workspace.asked` refuses.
    """
    if state.task is None:
        return (workspace.asked(state),)
    if state.split == "test":
        raise ValueError(
            "Settings are never chosen on test questions; sweep on split 'dev' and confirm once on test, with"
            " kv.evaluate."
        )
    task = workspace.task(state.task)
    return tuple(
        Asked(task.chat(question), task, question) for question in workspace.questions(state, state.sweep_questions)
    )


def run_sweep(
    workspace: Workspace,
    state: ExplorerState,
    cancelled: Cancelled,
    on_chunk: Callable[[Sweep], None],
    on_tokens: OnTokens | None = None,
) -> Iterator[None]:
    """Run a sweep, many cells together in one forked decode; yields where other work may go first.

    Cells with the same setting are decoded once. All texts are those of `kv.generate`.

    Args:
        workspace: the model and what is at hand.
        state: what is swept.
        cancelled: stops it at the next token; the chunk that runs is dropped. Where more urgent work waits, the chunk
            is dropped, too, and done after that.
        on_chunk: is given the sweep before the first chunk and after every one.
        on_tokens: is told of every token of the chunk that runs.

    Raises:
        ValueError: whatever the state asks for that can't be done; before anything is computed.
        CancelledError: `cancelled` was set.
    """
    grid, asked = make_grid(workspace, state), asked_in_sweep(workspace, state)
    sweep = Sweep(state, grid, asked)
    by_setting: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in grid.cells:
        by_setting.setdefault(
            (cell.steering.ck, cell.steering.cv, cell.steering.scope, cell.steering.heads), []
        ).append(cell)
    prompts, settings = [each.prompt for each in asked], generation_settings(state)
    workspace.check_slot(asked, state.slot)
    check_prompts(
        workspace.model, prompts, [grid.cells[0].steering], offset=state.offset, generation=settings, samples=1
    )
    on_chunk(sweep)
    yield
    start = time.perf_counter()
    (baseline,) = _decode(workspace, state, asked, [Nothing()], cancelled, on_tokens)
    sweep = replace(sweep, baseline=baseline, seconds=time.perf_counter() - start)
    on_chunk(sweep)
    yield
    waiting, size, worked = sorted(by_setting.values(), key=lambda cells: _coarse(cells[0], grid)), 1, 0.0
    while waiting:
        chunk, rest = waiting[:size], waiting[size:]
        start = time.perf_counter()
        methods = [replace(cells[0].steering, name=f"cell {i}") for i, cells in enumerate(chunk)]
        try:
            texts_of = _decode(workspace, state, asked, methods, Interrupted(cancelled), on_tokens)
        except CancelledError:
            if cancelled.is_set():
                raise
            yield  # more urgent work goes first; then the chunk begins anew
            continue
        waiting = rest
        found = zip(chunk, texts_of, strict=True)
        done = {(cell.row, cell.column): texts for cells, texts in found for cell in cells}
        took = time.perf_counter() - start
        worked += took
        sweep = replace(sweep, done={**sweep.done, **done}, seconds=worked)
        most = max(1, _MOST_ROWS // len(asked))
        size = min(2 * size, most) if took < CHUNK_SECONDS else size
        on_chunk(sweep)
        yield


def _coarse(cell: Cell, grid: Grid) -> int:
    """Where a cell stands in the queue: of many columns a coarse picture comes first."""
    if len(grid.columns) <= _MANY:
        return 0
    step = cell.column & -cell.column or _MANY  # the largest power of two that divides the column's number
    return -min(step, _MANY)


def _decode(
    workspace: Workspace,
    state: ExplorerState,
    asked: Sequence[Asked],
    methods: Sequence[Intervention],
    cancelled: Cancelled,
    on_tokens: OnTokens | None,
) -> list[tuple[Text, ...]]:
    """The texts of each method, in the order of the prompts: one prefill a prompt, all rows together."""
    settings, rows, _ = prepare(
        workspace.model,
        [a.prompt for a in asked],
        methods,
        chat=True,
        offset=state.offset,
        generation=generation_settings(state),
        samples=1,
    )
    found: dict[int, list[int]] = {}
    for batch in run_rows(workspace.model, rows, settings, state.seed, cancelled, on_tokens, _MOST_ROWS):
        found.update(batch)
    texts: list[list[Text]] = [[] for _ in methods]
    for i, row in enumerate(rows):
        prompt, method = divmod(i, len(methods))
        generation = read_row(workspace.model, row, (prompt, methods[method].label, 0), found[i], settings)
        texts[method].append(Text(asked[prompt], generation, judge(asked[prompt], methods[method], generation)))
    return [tuple(own) for own in texts]
