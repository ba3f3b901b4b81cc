"""How well single pairs' differences agree, and their first two principal components in one layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.decomposition import PCA

from ...analysis.pairs.grams import CACHE_PARTS
from ...tasks.base import Task
from ...vectors.extraction import PairDifferences
from ...vectors.pairs import ContrastiveSet
from ..results.components import Components
from ..state import ExplorerState
from ..threads import TABLES, Cancelled
from ..workspace import Workspace
from .extracting import extract_differences

_MOST = 240  # characters of a text


def look_at_pairs(
    workspace: Workspace,
    state: ExplorerState,
    cancelled: Cancelled,
    on_progress: Callable[[str, int, int], None],
    on_found: Callable[[Components], None],
) -> Iterator[None]:
    """Find the components of the state's layer, extracting what is missing; yields where other work may go first.

    Args:
        workspace: where pairs and differences are.
        state: names the layer, and keys or values.
        cancelled: stops the extraction.
        on_progress: is told, for the set that is extracted, its name, how many of its pairs are done, and of how many.
        on_found: is given what was found, while `TABLES` is held.

    Raises:
        ValueError: nothing to look at there.
        CancelledError: `cancelled` was set.
    """
    for name in [name for name in workspace.pairs if name not in workspace.differences]:
        for done in extract_differences(workspace, name, cancelled):
            on_progress(name, done, len(workspace.pairs[name]))
            yield
    texts = workspace.pair_texts
    for name, own in workspace.differences.items():
        if name not in texts:
            task = workspace.tasks.get(own.card.recipe.get("task", ""))
            texts[name] = pair_texts(own, workspace.pairs.get(name), task)
    with TABLES:
        on_found(find_components(workspace.differences, state.geometry_layer, state.geometry_part, texts))
    yield


def find_components(
    differences: Mapping[str, PairDifferences], layer: int, part: str, texts: Mapping[str, list[str]]
) -> Components:
    """The first two principal components of single pairs' differences, all sets together; the same as
    `analysis.style_pca` for two sets or more.

    Args:
        differences: by name.
        layer, part: which layer's `"keys"` or `"values"`.
        texts: by name, what each pair asks.

    Raises:
        ValueError: no differences, a layer that isn't there, fewer than three pairs, or pairs that don't differ there.
    """
    if not differences:
        raise ValueError("There are no pairs to look at; pass kv.explore pairs=... or differences=...")
    n_layers = next(iter(differences.values())).keys.shape[1]
    if part not in CACHE_PARTS or not 0 <= layer < n_layers:
        raise ValueError(
            f"There is no layer {layer} of {part}; choose a layer from 0 to {n_layers - 1}, and keys or values."
        )
    whole = {name: getattr(own, part).double().flatten(2).numpy() for name, own in differences.items()}
    every = np.concatenate([own[:, layer] for own in whole.values()])
    if len(every) < 3:
        raise ValueError(f"A scatter takes at least three pairs, not {len(every)}.")
    scale = max(float(np.linalg.norm(own, axis=2).max()) for own in whole.values())
    if np.linalg.norm(every, axis=1).max() <= 1e-5 * scale or not np.ptp(every, axis=0).any():
        raise ValueError(
            f"In layer {layer} the sides of the pairs have the same {part}, so there is nothing to see; choose another"
            " layer."
        )
    pca = PCA(2, svd_solver="full")
    places = pca.fit_transform(every)
    index = [(name, pair) for name, own in differences.items() for pair in range(len(own))]
    points = pd.DataFrame(index, columns=["set", "pair"]).assign(x=places[:, 0], y=places[:, 1])
    points.insert(1, "style", [str(differences[name].card.recipe.get("style", name)) for name, _ in index])
    points["text"] = [texts[name][pair] if pair < len(texts.get(name, [])) else "" for name, pair in index]
    first, second = pca.explained_variance_ratio_
    agreement = {name: agree(own) for name, own in whole.items()}
    return Components(layer, part, points, (float(first), float(second)), agreement, every.shape[1] ** -0.5)


def agree(differences: Float[np.ndarray, "pairs layers width"]) -> tuple[float, ...]:
    """How well pairs agree on a direction, layer by layer: the mean cosine of each pair's difference with the mean of
    the *other* pairs' differences. With its own part in the mean, a pair of noise would seem to agree with it.

    Args:
        differences: of single pairs.

    Returns:
        One cosine a layer; NaN for a single pair, and where the sides of a pair don't differ.

    >>> [round(x, 3) for x in agree(np.array([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]))]
    [0.471]
    """
    if len(differences) < 2:
        return (float("nan"),) * differences.shape[1]
    others = differences.sum(0) - differences
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (differences * others).sum(2) / (np.linalg.norm(differences, axis=2) * np.linalg.norm(others, axis=2))
    return tuple(map(float, cosines.mean(0)))


def pair_texts(own: PairDifferences, pairs: ContrastiveSet | None, task: Task | None) -> list[str]:
    """What each pair asks: the question's text where its task is at hand, or its id if that says something, or else the
    end that both prompts share.
    """
    ids: Any = own.card.recipe.get("questions") or []
    if len(ids) == len(own):
        known = (
            {q.id: q.text for q in task.questions("extraction")}
            if task is not None and not all(" " in str(i) for i in ids)
            else {}
        )
        texts = [known.get(i, str(i)) for i in ids]
        if all(" " in text for text in texts):
            return [text[:_MOST] for text in texts]
    if pairs is not None and len(pairs) == len(own):
        return [_ending(p, n) for p, n in zip(pairs.positive, pairs.negative, strict=True)]
    return [""] * len(own)


def _ending(positive: str, negative: str) -> str:
    """The longest end that both prompts share, where the question is, its last part."""
    n = 0
    while n < min(len(positive), len(negative), 4 * _MOST) and positive[-1 - n] == negative[-1 - n]:
        n += 1
    return positive[len(positive) - n :][-_MOST:].strip()
