"""The rounds of a search: which relative strengths are tried first, and which next, given the best cell so far."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .methods import Build
from .objectives import Goal


def first_round(
    name: str, builds: Mapping[str, Build], cells: int, doses: tuple[float, float]
) -> list[tuple[str, float]]:
    """The cells of one method in the first round: each variant at the same log-even relative strengths.

    Args:
        name: of the search, for errors.
        builds: its variants.
        cells: how many there are in all.
        doses: the smallest and the largest.

    Returns:
        A variant and a relative strength a cell.

    Raises:
        ValueError: no variants, or a number of cells that they don't divide into three relative strengths or more.

    >>> [(v, round(dose, 3)) for v, dose in first_round("mine", {"all layers": None}, 3, (1, 4))]
    [('all layers', 1.0), ('all layers', 2.0), ('all layers', 4.0)]
    """
    if not builds:
        raise ValueError(f"The search {name!r} has no variants; give it at least one layer, share of keys or steering.")
    check_cells(name, len(builds), cells)
    return [(v, float(d)) for v in builds for d in np.geomspace(*doses, cells // len(builds))]


def check_cells(name: str, n_variants: int, cells: int) -> None:
    """Refuse a number of cells that the variants of a method don't divide into three relative strengths or more.

    Args:
        name: of the search.
        n_variants: how many variants it has.
        cells: how many cells there are in all.

    Raises:
        ValueError: with numbers that would do.

    >>> check_cells("mine", 4, 24)
    """
    if cells < 3 * n_variants or cells % n_variants:
        raise ValueError(
            f"{name!r} has {n_variants} variants, and {cells} cells don't give each of them the same three or more"
            f" doses; choose a multiple of {n_variants}, {3 * n_variants} at least."
        )


def best_cell(table: pd.DataFrame, name: str, goal: Goal) -> pd.Series:
    """The best cell of a method: the largest objective within the bounds; among equals the smallest relative strength.

    Args:
        table: all cells so far: `method`, `variant`, `dose`, and what the goal looks at.
        name: the method.
        goal: what is maximised, within which bounds.

    Raises:
        ValueError: no cell lies within the bounds.
    """
    own = table[(table.method == name) & goal.allowed(table)]
    if own.empty:
        bounds = ", ".join(f"{name} in {low} to {high}" for name, (low, high) in goal.bounds.items())
        raise ValueError(f"No cell of {name!r} lies within the bounds ({bounds}); widen them, or take smaller doses.")
    return own.sort_values([goal.column, "dose"], ascending=[False, True], kind="stable").iloc[0]


def is_edge(table: pd.DataFrame, best: pd.Series) -> bool:
    """Whether the best relative strength lies at an end of what was tried of its variant.

    Args:
        table: all cells so far.
        best: one of them, from `best_cell`.
    """
    tried = _tried(table, best)
    return best.dose in (tried[0], tried[-1])


def next_round(table: pd.DataFrame, best: pd.Series, n: int) -> list[tuple[str, float]]:
    """`n` more relative strengths of the best variant: beyond the edge that it lies on, or between its neighbours.

    Args:
        table: all cells so far.
        best: one of them, from `best_cell`.
        n: how many cells.

    Returns:
        The variant and a relative strength a cell.

    >>> tried = pd.DataFrame({"method": "mine", "variant": "all layers", "dose": [1.0, 2.0, 4.0]})
    >>> next_round(tried, tried.iloc[2], 2)
    [('all layers', 8.0), ('all layers', 16.0)]
    """
    tried = _tried(table, best)
    at = tried.index(best.dose)
    if at in (0, len(tried) - 1):
        ratio = tried[0] / tried[1] if at == 0 else tried[-1] / tried[-2]
        return [(best.variant, float(best.dose * ratio**i)) for i in range(1, n + 1)]
    below = np.geomspace(tried[at - 1], best.dose, n // 2 + 2)[1:-1]
    above = np.geomspace(best.dose, tried[at + 1], n - n // 2 + 2)[1:-1]
    return [(best.variant, float(d)) for d in (*below, *above)]


def _tried(table: pd.DataFrame, best: pd.Series) -> list[float]:
    return sorted(table[(table.method == best.method) & (table.variant == best.variant)].dose)
