"""Separability of styles: silhouette and nearest-centroid accuracy of single pairs, against shuffled labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ...stats.significance import control_p
from ...vectors.extraction import PairDifferences
from .geometry import panels, share_questions

_BLOCK = 64  # labellings that are scored together


def separability(
    differences: Mapping[str, PairDifferences],
    layers: Sequence[int] | None = None,
    *,
    shuffles: int = 499,
    seed: int = 0,
) -> pd.DataFrame:
    """How well a single pair's difference tells its style, for each layer's keys and values.

    Two measures: the mean silhouette, and the accuracy of the nearest centroid where the pair itself is left out of its
    style's centroid. Neither has a known value for styles that don't differ (leaving out puts accuracy below 1 /
    styles), so each stands beside what shuffled labels give. Labels are shuffled within each question where the styles
    share their questions, and freely where they don't.

    Post-RoPE keys also tell how long the prompts were, in layer 0 nothing else; `kv.extract_pairs(...,
    keys="position_free")` takes that out.

    Args:
        differences, layers: as in `style_pca`.
        shuffles: how many; the smallest p-value is 1 / (shuffles + 1).
        seed: fixes the shuffles, which are the same for every layer and part.

    Returns:
        One row per layer, part and measure (`"silhouette"`, `"nearest centroid"`): `value`; `shuffled`, the mean of the
        shuffles, and `low`, `high`, the middle 95% of them; `p`, the share of shuffles (plus one) that do at least as
        well; and `p_family`, the share of shuffles whose best layer and part does, which corrects for having looked at
        all of them.

    Raises:
        ValueError: fewer than one shuffle, or as `style_pca`.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors.cards import Card
        >>> from kvsteer_lab.vectors.extraction import PairDifferences
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 8)
        >>> noise = torch.Generator().manual_seed(0)
        >>> def around(mean):  # eight pairs, two layers, one KV head of width 4
        ...     keys, values = (mean + torch.randn(8, 2, 1, 4, generator=noise) for _ in range(2))
        ...     return PairDifferences(keys, values, card)
        >>> pairs = {"stepwise": around(3.0), "analogical": around(-3.0)}
        >>> table = kv.analysis.separability(pairs, layers=[1], shuffles=39)
        >>> table[table.measure == "nearest centroid"][["part", "value"]].values.tolist()
        [['keys', 1.0], ['values', 1.0]]
    """
    if shuffles < 1:
        raise ValueError(
            f"A baseline needs at least one shuffle, not {shuffles}; take at least 39 for p-values down to 0.025."
        )
    found = panels(differences, layers)
    labels = _labellings(differences, shuffles, seed)
    scores = {(panel.layer, panel.part): _scores(panel.points, labels, len(differences)) for panel in found}
    rows = []
    for measure, name in enumerate(("silhouette", "nearest centroid")):
        best = np.max([score[measure, 1:] for score in scores.values()], axis=0)
        for (layer, part), score in scores.items():
            value, shuffled = float(score[measure, 0]), score[measure, 1:]
            low, high = np.quantile(shuffled, [0.025, 0.975])
            p, p_family = control_p(value, shuffled.tolist()), control_p(value, best.tolist())
            rows.append((layer, part, name, value, shuffled.mean(), low, high, p, p_family))
    return pd.DataFrame(rows, columns=["layer", "part", "measure", "value", "shuffled", "low", "high", "p", "p_family"])


def _labellings(
    differences: Mapping[str, PairDifferences], shuffles: int, seed: int
) -> Int[np.ndarray, "labellings points"]:
    """The true labels, as numbers, and shuffled ones below them."""
    rng = np.random.default_rng(seed)
    sizes = [len(own) for own in differences.values()]
    true = np.repeat(np.arange(len(sizes)), sizes)
    if share_questions(differences):  # one column per question
        mixed = [rng.permuted(true.reshape(len(sizes), -1), axis=0).ravel() for _ in range(shuffles)]
    else:
        mixed = [rng.permutation(true) for _ in range(shuffles)]
    return np.stack([true, *mixed])


def _scores(
    points: Float[np.ndarray, "points width"], labels: Int[np.ndarray, "labellings points"], styles: int
) -> Float[np.ndarray, "2 labellings"]:
    """Mean silhouette and leave-one-out accuracy of the nearest centroid, under each labelling."""
    centred = points - points.mean(0)
    gram = centred @ centred.T
    squares = gram.diagonal()
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * gram, 0))
    blocks = np.split(labels, range(_BLOCK, len(labels), _BLOCK))
    return np.concatenate([np.stack(_of_block(gram, distances, np.eye(styles)[block])) for block in blocks], axis=1)


def _of_block(
    gram: Float[np.ndarray, "points points"],
    distances: Float[np.ndarray, "points points"],
    member: Float[np.ndarray, "labellings points styles"],
) -> tuple[Float[np.ndarray, " labellings"], Float[np.ndarray, " labellings"]]:
    own, count = member.astype(bool), member.sum(1)[:, None]  # labellings, 1, styles

    # Rousseeuw (1987): (b - a) / max(a, b), a the mean distance to the own style's others, b that to the nearest other
    # style.
    to_style = distances @ member
    a = (to_style / (count - 1))[own].reshape(member.shape[:2])
    b = np.where(own, np.inf, to_style / count).min(-1)
    larger = np.maximum(a, b)
    silhouette = np.divide(b - a, larger, out=np.zeros_like(a), where=larger > 0).mean(1)

    # |x - m|^2 = |x|^2 - 2 x.m + |m|^2, with x taken out of its own style's sum: x.s becomes x.s - |x|^2, and |s|^2
    # becomes |s|^2 - 2 x.s + |x|^2.
    square = gram.diagonal()[:, None]
    along = gram @ member
    length = np.einsum("rns,rns->rs", member, along)[:, None]
    left = np.where(own, count - 1, count)
    far = (
        square
        - 2 * np.where(own, along - square, along) / left
        + np.where(own, length - 2 * along + square, length) / left**2
    )
    hit = far[own].reshape(member.shape[:2]) < np.where(own, np.inf, far).min(-1)
    return silhouette, hit.mean(1)
