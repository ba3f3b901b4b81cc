"""What the explorer writes to files: figures, vectors and states."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..._util.files import write_atomically
from ...figures.explorer import plot_components, plot_sweep, plot_tokens
from ...figures.saving import save_figure
from ...models.model import Model
from ..results.comparison import Comparison
from ..results.components import Components
from ..results.sweep import Sweep
from ..state import FIGURES, ExplorerState, Measure
from ..state_files import refuse_existing
from ..workspace import Workspace
from .restoring import origin_of


def draw_figure(
    which: str, measure: Measure, comparison: Comparison | None, sweep: Sweep | None, found: Components | None
) -> tuple[Figure, int | None]:
    """One of the explorer's `FIGURES`, of what was found so far, and the seed of its texts; pairs have none.

    Raises:
        ValueError: nothing of that kind was found yet.
    """
    if which == FIGURES[0]:
        if comparison is None:
            raise ValueError("There are no texts to draw yet; compare something with the baseline first.")
        return plot_tokens(comparison.tokens()), comparison.state.seed
    if which == FIGURES[1]:
        if sweep is None:
            raise ValueError("There is no sweep to draw yet; run one in the ablation tab first.")
        grid = sweep.grid
        return plot_sweep(sweep.to_frame(), measure, grid.title, grid.row_title, grid.column_title), sweep.state.seed
    if which != FIGURES[2]:
        raise ValueError(f"There is no figure of {which!r}; choose one of: {', '.join(FIGURES)}.")
    if found is None:
        raise ValueError("There are no pairs to draw yet; look at the geometry tab first.")
    return plot_components(found.table(), found.layer, found.part), None


def write_figure(
    which: str,
    path: str,
    overwrite: bool,
    model: Model,
    measure: Measure,
    comparison: Comparison | None,
    sweep: Sweep | None,
    found: Components | None,
) -> str:
    """Write one of the explorer's figures; says what was written.

    Raises:
        ValueError: nothing to draw yet, no name, or an existing file without `overwrite`.
        OSError: the folder can't be written.
    """
    if not path.strip():
        raise ValueError("The name of the figure is empty; give a path without a suffix.")
    there = [path + suffix for suffix in (".pdf", ".svg", ".png", ".csv") if Path(path + suffix).exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} exists; choose another name, or allow overwriting.")
    figure, seed = draw_figure(which, measure, comparison, sweep, found)
    save_figure(figure, path, model=model, seed=seed)
    return f"Written: {path}.pdf, .svg, .png and .csv."


def write_vectors(path: str, overwrite: bool, workspace: Workspace, state: ExplorerState) -> str:
    """Write the state's vectors with their card; says what was written.

    Raises:
        ValueError: an unknown set, no name, or an existing file without `overwrite`.
        OSError: the folder can't be written.
    """
    refuse_existing(path, overwrite)
    return f"Written: {workspace.mix(state).save(path)}."


def write_state(path: str, overwrite: bool, workspace: Workspace, state: ExplorerState) -> str:
    """Write a state as JSON, with the model it belongs to; says what was written.

    Raises:
        ValueError: no name, or an existing file without `overwrite`.
        OSError: the folder can't be written.
    """
    return f"Written: {state.save(path, overwrite=overwrite, origin=origin_of(workspace))}."


def write_page(path: str, overwrite: bool, page: str) -> str:
    """Write an HTML page; says what was written.

    Raises:
        ValueError: no name, or an existing file without `overwrite`.
        OSError: the folder can't be written.
    """
    refuse_existing(path, overwrite)
    written = write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return f"Written: {written}."
