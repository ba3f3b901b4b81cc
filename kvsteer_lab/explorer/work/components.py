"""The scatter of the geometry tab: the pairs of one layer in their first two principal components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from ...analysis.pairs.geometry import PARTS
from ...tasks.base import Task
from ...vectors.extraction import PairDifferences
from ...vectors.pairs import ContrastiveSet

_MOST = 240  # characters of a text


@dataclass(frozen=True)
class Components:
    """Points of one layer's keys or values.

    Attributes:
        layer, part: which layer's `"keys"` or `"values"`.
        points: one row a pair: `set`, `style`, `pair`, `x`, `y`, `text` (its question).
        explained: the two components' shares of the variance.
    """

    layer: int
    part: str
    points: pd.DataFrame
    explained: tuple[float, float]

    def table(self) -> pd.DataFrame:
        """The points without their texts, with `explained_x` and `explained_y`."""
        return self.points.drop(columns="text").assign(explained_x=self.explained[0], explained_y=self.explained[1])


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
    if part not in PARTS or not 0 <= layer < n_layers:
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
    return Components(layer, part, points, (float(first), float(second)))


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
