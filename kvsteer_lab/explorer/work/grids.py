"""The cells of a sweep: each is the state's own steering with one setting changed, laid out in rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..results.sweep import Cell, Grid
from ..state import ExplorerState
from ..workspace import Workspace

BOTH = "keys and values"


def make_grid(workspace: Workspace, state: ExplorerState) -> Grid:
    """The grid that the state asks for.

    Raises:
        ValueError: what `workspace.steering` refuses.
    """
    return {"layers": _layers, "heads": _heads, "ck x cv": _doses}[state.sweep](workspace, state)


def _layers(workspace: Workspace, state: ExplorerState) -> Grid:
    """Each layer of the model alone, and all chosen layers but one."""
    scope = workspace.steering(state).scope
    alone = [(0, layer, (layer,)) for layer in range(workspace.model.n_layers)]
    without = [(1, layer, tuple(other for other in scope if other != layer)) for layer in scope if len(scope) > 1]
    cells = tuple(_cell(workspace, state, row, layer, {"layers": layers}) for row, layer, layers in [*alone, *without])
    rows = ("this layer alone", "all chosen but this")[: 2 if without else 1]
    return Grid("Layers", "", "layer", rows, tuple(map(str, range(workspace.model.n_layers))), cells)


def _heads(workspace: Workspace, state: ExplorerState) -> Grid:
    """Each KV head of each chosen layer alone."""
    steering = workspace.steering(state)
    heads = range(workspace.model.n_kv_heads) if steering.heads is None else tuple(steering.heads)
    cells = [
        _cell(workspace, state, row, column, {"layers": (layer,), "heads": (head,)})
        for row, layer in enumerate(steering.scope)
        for column, head in enumerate(heads)
    ]
    return Grid(
        "One KV head of one layer",
        "layer",
        "KV head",
        tuple(map(str, steering.scope)),
        tuple(map(str, heads)),
        tuple(cells),
    )


def _doses(workspace: Workspace, state: ExplorerState) -> Grid:
    """Each c_k with each c_v, in the chosen layers and heads."""
    keys, values = (tuple(dict.fromkeys(given)) for given in (state.sweep_ck, state.sweep_cv))
    cells = [
        _cell(workspace, state, row, column, {"ck": ck, "cv": cv, "part": BOTH})
        for row, ck in enumerate(keys)
        for column, cv in enumerate(values)
    ]
    return Grid(
        "Coefficients", "c_k", "c_v", tuple(f"{ck:g}" for ck in keys), tuple(f"{cv:g}" for cv in values), tuple(cells)
    )


def _cell(workspace: Workspace, state: ExplorerState, row: int, column: int, changes: Mapping[str, Any]) -> Cell:
    return Cell(row, column, workspace.steering(state.changed(changes)), changes)
