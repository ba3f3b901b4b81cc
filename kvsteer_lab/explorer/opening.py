"""`kv.explore`: the explorer for a model and its vectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..interventions.prompt import ForcedPrefix
from ..models.model import Model
from ..tasks.base import Task
from ..vectors.activation import ActivationVectors
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors
from ..vectors.pairs import ContrastiveSet
from .explorer import Explorer
from .state import ExplorerState
from .work.restoring import restore
from .workspace import Workspace, by_name


def explore(
    model: Model,
    vectors: KVVectors | Mapping[str, KVVectors],
    *,
    task: Task | None = None,
    pairs: ContrastiveSet | Mapping[str, ContrastiveSet] | None = None,
    differences: PairDifferences | Mapping[str, PairDifferences] | None = None,
    activations: ActivationVectors | Mapping[str, ActivationVectors] | None = None,
    state: ExplorerState | str | Path | None = None,
    folder: str | Path = "kvsteer-explorer",
) -> Explorer:
    """Steer a model by hand in JupyterLab: texts side by side, sweeps and geometry; nothing blocks the kernel.

    Args:
        model: from `kv.load`.
        vectors: what is steered with; several by name can be mixed.
        task: whose questions are asked first; the package's own can be chosen, too.
        pairs: what the vectors were extracted from, by the same names: for the geometry tab, and for activation
            steering.
        differences: from `kv.extract_pairs`, where they are at hand already.
        activations: from `kv.extract_activations`, by the same names.
        state: the setting at first: a state, or a file that the explorer wrote. Vectors that it names and that aren't
            given are loaded from where they came; a file of another model's explorer is taken over in part, with a
            warning.
        folder: where the explorer's files go unless another place is named.

    Returns:
        The explorer; a cell that ends in it shows it. Jupyter keeps its widgets, and through them the explorer, until
        it is closed with `close`: do so before the cell is run again.

    Raises:
        ValueError: no vectors, vectors or differences of another model, or a state that can't be read.

    >>> import kvsteer_lab as kv
    >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
    >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=2, shots=1)
    >>> vectors = kv.extract(model, pairs, progress=False)
    >>> explorer = kv.explore(model, {"mine": vectors}, task=task, pairs={"mine": pairs})
    >>> explorer
    Explorer(tiny, vectors: mine)
    >>> explorer.close()
    """
    single = str(vectors.card.recipe.get("style", "vectors")) if isinstance(vectors, KVVectors) else "vectors"
    named = by_name(vectors, KVVectors, "vectors", single)
    first = next(iter(named), single)
    tasks: dict[str, Any] = {} if task is None else {task.name: task}
    workspace = Workspace(
        model,
        named,
        by_name(activations, ActivationVectors, "activations", first),
        by_name(pairs, ContrastiveSet, "pairs", first),
        by_name(differences, PairDifferences, "differences", first),
        tasks,
    )
    if isinstance(state, str | Path):
        state, remark = restore(workspace, state, first_state(workspace, first, task))
        if remark:
            warnings.warn(remark, stacklevel=2)
    return Explorer(workspace, state or first_state(workspace, first, task), folder)


def first_state(workspace: Workspace, vectors: str, task: Task | None) -> ExplorerState:
    """The defaults, as they fit a model and a task: the first development question, the style's first token as forced
    prefix.
    """
    changes: dict[str, Any] = dict(
        mix={vectors: 1.0},
        activation_layer=min(1, workspace.model.n_layers - 1),
        geometry_layer=min(1, workspace.model.n_layers - 1),
    )
    if task is not None:
        split = "dev" if "dev" in task.splits else task.splits[0]
        changes |= dict(task=task.name, split=split, max_new_tokens=task.max_new_tokens)
        style = workspace.vectors[vectors].card.recipe.get("style")
        if style in task.styles:
            changes["prefix"] = ForcedPrefix.of_style(task, workspace.model.tokenizer, style).text
    else:
        changes["prompt"] = "Ann has 15 apples, gets 1, loses 6. How many apples are left?"
    return ExplorerState().changed(changes)
