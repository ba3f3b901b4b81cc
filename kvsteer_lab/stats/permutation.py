"""Paired permutation test of means, for outcomes that are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import permutation_test

from .outcomes import codes_of, paired, refuse_nan


def paired_means_permutation(
    ours: Sequence[float],
    theirs: Sequence[float],
    clusters: Sequence[Any] | None = None,
    their_clusters: Sequence[Any] | None = None,
    *,
    n: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided permutation test of paired means (Fisher, Pitman): each question's difference keeps its size and gets a
    sign by a fair coin.

    With up to log2 `n` questions all sign patterns are tried; with more, `n` are drawn, and the p-value is at least 1 /
    (n + 1). For outcomes that are true or false take `paired_permutation`, which is exact.

    Args:
        ours, theirs: outcomes; without `clusters` in one order of the questions.
        clusters: the question of each of ours; `None`: one outcome a question.
        their_clusters: the question of each of theirs; `None`: the same as ours.
        n: sign patterns drawn.
        seed: of the drawing.

    Returns:
        The p-value; 1 where at most one question differs.

    Raises:
        ValueError: NaN, empty sequences, or sides that answer different questions.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.paired_means_permutation([12, 30, 25, 41], [10, 12, 20, 30])  # 2 of 16 sign patterns
        0.125
    """
    if clusters is None:
        a, b = paired(ours, theirs)
    else:
        a, b = _means(ours, clusters), _means(theirs, clusters if their_clusters is None else their_clusters)
        names = [np.unique(np.asarray(c)) for c in (clusters, clusters if their_clusters is None else their_clusters)]
        if len(names[0]) != len(names[1]) or (names[0] != names[1]).any():
            raise ValueError("The two sides answer different questions; keep those that both of them answered.")
    difference = a - b
    difference = difference[difference != 0]
    if difference.size < 2:
        return 1.0  # both signs of one difference are as far from zero
    found = permutation_test(
        (difference,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=n,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _means(values: Sequence[float], clusters: Sequence[Any]) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    refuse_nan(x)
    _, codes = codes_of(clusters, x.size)
    means: np.ndarray = np.bincount(codes, x) / np.bincount(codes)
    return means
