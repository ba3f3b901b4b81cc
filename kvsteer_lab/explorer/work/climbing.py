"""Decode one prompt under the state's steering at each strength of the ladder, all together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ...generation.generate import prepare, read_row
from ...interventions.base import Nothing
from ..results.ladder import Ladder, Rung
from ..state import ExplorerState
from ..threads import Cancelled
from ..workspace import Workspace
from .comparing import generation_settings, judge
from .measuring import measure_rows
from .running import OnTokens, run_rows


def climb(
    workspace: Workspace,
    state: ExplorerState,
    cancelled: Cancelled,
    on_done: Callable[[Ladder], None],
    on_tokens: OnTokens | None = None,
) -> Iterator[None]:
    """The texts at every strength, and how far each is from the baseline; yields where other work may go first.

    Args:
        workspace: the model and what is at hand.
        state: what is asked and steered; its `cv` gives way to each value of its `ladder`.
        cancelled: stops it at the next token.
        on_done: is given the ladder.
        on_tokens: is told of every token.

    Raises:
        ValueError: whatever the state asks for that can't be done; before anything is computed.
        CancelledError: `cancelled` was set.
    """
    asked = workspace.asked(state)
    workspace.check_slot([asked], state.slot)
    strengths = tuple(dict.fromkeys(state.ladder))
    steering = workspace.steering(state)
    methods = [replace(steering, cv=cv, name=f"c_v {cv:g}") for cv in strengths]
    settings, rows, _ = prepare(
        workspace.model,
        [asked.prompt],
        [*methods, Nothing()],
        chat=True,
        offset=state.offset,
        generation=generation_settings(state),
        samples=1,
    )
    baseline = rows.pop()
    found: dict[int, list[int]] = {}
    for batch in run_rows(workspace.model, rows, settings, state.seed, cancelled, on_tokens):
        found.update(batch)
        yield
    targets = [found[i] for i in range(len(rows))]
    nats: dict[int, float] = {}
    for part in measure_rows(workspace.model, [(row, baseline) for row in rows], targets, cancelled):
        nats |= {i: measured.nats() for i, measured in part}
        yield
    texts = [
        read_row(workspace.model, row, (0, method.label, 0), ids, settings)
        for row, method, ids in zip(rows, methods, targets, strict=True)
    ]
    rungs = [
        Rung(cv, text, judge(asked, method, text), nats[i])
        for i, (cv, method, text) in enumerate(zip(strengths, methods, texts, strict=True))
    ]
    on_done(Ladder(state, tuple(rungs)))
    yield
