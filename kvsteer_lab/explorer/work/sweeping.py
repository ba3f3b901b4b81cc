"""A sweep over layers, KV heads or coefficients, in chunks of whole cells: after a stop, finished cells are whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...generation.generate import check_prompts, prepare, read_row
from ...interventions.base import Intervention, Nothing
from ..results.comparison import Asked
from ..results.sweep import Cell, Sweep, Text
from ..state import ExplorerState
from ..threads import Cancelled
from ..workspace import Workspace
from .comparing import generation_settings, judge
from .grids import make_grid
from .running import run_rows

CHUNK_SECONDS = 0.4
"""About how long a chunk shall take: other work waits no longer than that."""
_MOST_ROWS = 256


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
    workspace: Workspace, state: ExplorerState, cancelled: Cancelled, on_chunk: Callable[[Sweep], None]
) -> Iterator[None]:
    """Run a sweep, cell after cell, some of them together in one forked decode; yields where other work may go first.

    Cells with the same setting are decoded once. All texts are those of `kv.generate`.

    Args:
        workspace: the model and what is at hand.
        state: what is swept.
        cancelled: stops it at the next token; the chunk that runs is dropped.
        on_chunk: is given the sweep before the first chunk and after every one.

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
    (baseline,) = _decode(workspace, state, asked, [Nothing()], cancelled)
    sweep = replace(sweep, baseline=baseline, seconds=time.perf_counter() - start)
    on_chunk(sweep)
    yield
    waiting, size, worked = list(by_setting.values()), 1, 0.0
    while waiting:
        chunk, waiting = waiting[:size], waiting[size:]
        start = time.perf_counter()
        methods = [replace(cells[0].steering, name=f"cell {i}") for i, cells in enumerate(chunk)]
        found = zip(chunk, _decode(workspace, state, asked, methods, cancelled), strict=True)
        done = {(cell.row, cell.column): texts for cells, texts in found for cell in cells}
        took = time.perf_counter() - start
        worked += took
        sweep = replace(sweep, done={**sweep.done, **done}, seconds=worked)
        most = max(1, _MOST_ROWS // len(asked))
        size = min(2 * size, most) if took < CHUNK_SECONDS else max(1, size // 2) if took > 2 * CHUNK_SECONDS else size
        on_chunk(sweep)
        yield


def _decode(
    workspace: Workspace,
    state: ExplorerState,
    asked: Sequence[Asked],
    methods: Sequence[Intervention],
    cancelled: Cancelled,
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
    for batch in run_rows(workspace.model, rows, settings, state.seed, cancelled, batch_size=_MOST_ROWS):
        found.update(batch)
    texts: list[list[Text]] = [[] for _ in methods]
    for i, row in enumerate(rows):
        prompt, method = divmod(i, len(methods))
        generation = read_row(workspace.model, row, (prompt, methods[method].label, 0), found[i], settings)
        texts[method].append(Text(asked[prompt], generation, judge(asked[prompt], methods[method], generation)))
    return [tuple(own) for own in texts]
