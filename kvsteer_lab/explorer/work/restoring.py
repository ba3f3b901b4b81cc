"""Restoring a saved state: missing vectors are read from where they came, and settings that belong to another model are
left out.
"""

from __future__ import annotations

from pathlib import Path

from ...models.fingerprint import compare_fingerprints
from ..state import ExplorerState
from ..state_files import Origin
from ..workspace import Workspace

_OF_THE_MODEL = (
    "mix",
    "ck",
    "cv",
    "layers",
    "heads",
    "activation_layer",
    "activation_coefficient",
    "sweep_ck",
    "sweep_cv",
    "geometry_layer",
)
"""Fields that mean nothing on other weights."""


def origin_of(workspace: Workspace) -> Origin:
    """What a saved state records of where it was set."""
    return Origin(workspace.model.name, workspace.model.fingerprint, dict(workspace.sources))


def _same_model(origin: Origin, workspace: Workspace) -> bool:
    """Whether a state was set on these weights, as far as can be known: fingerprints of earlier versions of the package
    can't be compared, and then the model's name decides.
    """
    compared = compare_fingerprints(origin.fingerprint, workspace.model.fingerprint)
    return origin.model == workspace.model.name if compared == "format" else compared != "weights"


def restore(workspace: Workspace, path: str | Path, now: ExplorerState) -> tuple[ExplorerState, str]:
    """The state in a file, and a remark if it can't be taken whole.

    Args:
        workspace: where it is restored. Vectors that the state names and that aren't there are loaded, if their file or
            folder is still where it was.
        path: a file of `ExplorerState.save`.
        now: the settings as they are; of another model's state, coefficients, vectors, layers and heads are not taken
            over.

    Raises:
        ValueError: no state at `path`, vectors that are neither here nor at their place, or layers that aren't there.
    """
    state, origin = ExplorerState.load(path), Origin.load(path)
    remark = ""
    if origin is not None and not _same_model(origin, workspace):
        state = state.changed({name: getattr(now, name) for name in _OF_THE_MODEL})
        remark = (
            f"The state belongs to another model ({origin.model}, {origin.fingerprint}): prompt, sampling and what is"
            " compared are taken over; vectors, coefficients, layers and heads are left as they were."
        )
    sources = {} if origin is None else origin.sources
    for name in [name for name, weight in state.mix.items() if weight and name not in workspace.vectors]:
        if Path(source := sources.get(name, name)).exists():
            workspace.load_vectors(source)
    workspace.steering(state)  # refuses what isn't here before anything is changed
    return state, remark
