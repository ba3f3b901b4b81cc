"""The cells of a sweep: each a setting of the state's own steering, laid out in rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...interventions.cache import CacheSteering
from ..state import ExplorerState
from ..workspace import Bench

BOTH = "keys and values"


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


def make_grid(bench: Bench, state: ExplorerState) -> Grid:
    """The grid that the state asks for.

    Raises:
        ValueError: what `bench.steering` refuses.
    """
    return {"layers": _layers, "heads": _heads, "ck x cv": _doses}[state.sweep](bench, state)


def _layers(bench: Bench, state: ExplorerState) -> Grid:
    """Each layer of the model alone, and all chosen layers but one."""
    scope = bench.steering(state).scope
    alone = [(0, layer, (layer,)) for layer in range(bench.model.n_layers)]
    without = [(1, layer, tuple(other for other in scope if other != layer)) for layer in scope if len(scope) > 1]
    cells = tuple(_cell(bench, state, row, layer, {"layers": layers}) for row, layer, layers in [*alone, *without])
    rows = ("this layer alone", "all chosen but this")[: 2 if without else 1]
    return Grid("Layers", "", "layer", rows, tuple(map(str, range(bench.model.n_layers))), cells)


def _heads(bench: Bench, state: ExplorerState) -> Grid:
    """Each KV head of each chosen layer alone."""
    steering = bench.steering(state)
    heads = range(bench.model.n_kv_heads) if steering.heads is None else tuple(steering.heads)
    cells = [
        _cell(bench, state, row, column, {"layers": (layer,), "heads": (head,)})
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


def _doses(bench: Bench, state: ExplorerState) -> Grid:
    """Each c_k with each c_v, in the chosen layers and heads."""
    keys, values = (tuple(dict.fromkeys(given)) for given in (state.sweep_ck, state.sweep_cv))
    cells = [
        _cell(bench, state, row, column, {"ck": ck, "cv": cv, "part": BOTH})
        for row, ck in enumerate(keys)
        for column, cv in enumerate(values)
    ]
    return Grid(
        "Coefficients", "c_k", "c_v", tuple(f"{ck:g}" for ck in keys), tuple(f"{cv:g}" for cv in values), tuple(cells)
    )


def _cell(bench: Bench, state: ExplorerState, row: int, column: int, changes: Mapping[str, Any]) -> Cell:
    return Cell(row, column, bench.steering(state.changed(changes)), changes)
