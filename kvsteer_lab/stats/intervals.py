"""How sure a mean is: intervals of paired differences and of clustered means, for outcomes that are any numbers.

Lengths, log-probabilities and divergences belong here; for outcomes that are true or false take
`kv.stats.paired_difference` and `clustered_share`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap
from statsmodels.regression.linear_model import OLS

from .outcomes import Estimate, codes_of, paired, refuse_nan
from .shares import paired_difference as paired_difference  # importable from here, too
from .shares import wilson as wilson


def paired_bootstrap(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    clusters: Sequence[Any] | None = None,
    n: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Percentile bootstrap of the mean of `ours - theirs` (Efron 1979), for outcomes that are numbers.

    For outcomes that are true or false take `paired_difference`: where no resample differs, a bootstrap has no width.

    Questions are resampled, each with both of its outcomes. With `clusters` (the question of each row, where there are
    several samples a question) whole clusters are.

    Args:
        ours, theirs: outcomes in one order.
        clusters: what each row belongs to; `None`: every row stands for itself.
        n: number of resamples.
        seed: of the resampling.
        confidence: of the interval.

    Returns:
        The mean difference, its interval, and its standard error.

    Raises:
        ValueError: sequences of different length, empty ones, NaN, or fewer than two questions.

    Examples:
        >>> import kvsteer_lab as kv
        >>> longer = kv.stats.paired_bootstrap([12, 30, 25, 41], [10, 12, 20, 30], n=1000)
        >>> longer.value, longer.low > 0
        (9.0, True)
    """
    a, b = paired(ours, theirs)
    group = _codes(np.arange(a.size) if clusters is None else clusters, a.size)
    sums, counts = np.bincount(group, a - b), np.bincount(group).astype(float)
    found = bootstrap(
        (sums, counts),
        _ratio,
        paired=True,
        n_resamples=n,
        batch=1000,
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    )
    low, high = found.confidence_interval
    return Estimate(float((a - b).mean()), float(low), float(high), float(found.standard_error))


def vector_bootstrap(
    ours: Float[np.ndarray, "vectors questions"],
    theirs: Sequence[float],
    *,
    n: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Percentile bootstrap of the mean of `ours - theirs` over both its sources: extraction pairs and questions.

    For outcomes that are true or false take `vector_difference`.

    Each row of `ours` holds the outcomes of one vector that was extracted from a resample, with replacement, of the
    extraction pairs. A replicate draws one row and resamples the questions, so its variance is the variance of the
    rows' means plus the mean of the rows' own sampling variances. Rows are drawn and not averaged: more rows describe
    the spread between vectors more finely, but don't make it smaller.

    Args:
        ours: outcomes, vectors x questions; forty vectors or more for a 95% interval.
        theirs: the baseline's outcomes on the same questions.
        n, seed, confidence: as in `paired_bootstrap`.

    Returns:
        The mean difference, its interval, and its standard error.

    Raises:
        ValueError: shapes that do not fit, NaN, or fewer than two vectors or questions.

    Examples:
        >>> import numpy as np
        >>> import kvsteer_lab as kv
        >>> lengths = np.random.default_rng(0).normal(30, 5, (40, 20))  # of 40 vectors on 20 questions
        >>> longer = kv.stats.vector_bootstrap(lengths, [10.0] * 20, n=500)
        >>> longer.low < longer.value < longer.high
        True
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.ndim != 2 or b.shape != a.shape[1:] or min(a.shape) < 2:
        raise ValueError(
            f"Outcomes must be at least 2 vectors x 2 questions, and a baseline on these questions, not {a.shape} and"
            f" {b.shape}."
        )
    difference = a - b
    refuse_nan(difference)
    rng = np.random.default_rng(seed)
    vectors, questions = a.shape
    means = np.array(
        [difference[rng.integers(vectors), rng.integers(questions, size=questions)].mean() for _ in range(n)]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(difference.mean()), float(low), float(high), float(means.std(ddof=1)))


def clustered_mean(values: Sequence[float], clusters: Sequence[Any], confidence: float = 0.95) -> Estimate:
    """A mean whose error respects that several samples belong to one question (Liang and Zeger 1986; CR1).

    error^2 = G / (G - 1) * sum over questions of (sum of the question's residuals)^2 / N^2, with G questions and N
    samples; the interval is Student's with G - 1 degrees of freedom. With one sample a question it is the ordinary one.

    Args:
        values: a number a sample.
        clusters: the question of each sample.
        confidence: share of such intervals that hold the true mean.

    Returns:
        The mean, its interval, and its standard error.

    Raises:
        ValueError: sequences of different length, empty ones, NaN, or a single question.

    Examples:
        >>> import kvsteer_lab as kv
        >>> tokens = kv.stats.clustered_mean([10, 12, 30, 34, 20, 22], ["a", "a", "b", "b", "c", "c"])
        >>> round(tokens.value, 2), round(tokens.error, 2)
        (21.33, 6.06)
    """
    x = np.asarray(values, dtype=float)
    refuse_nan(x)
    groups = _codes(clusters, x.size)
    fit = OLS(x, np.ones_like(x)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    low, high = fit.conf_int(alpha=1 - confidence)[0]
    return Estimate(float(x.mean()), float(low), float(high), float(fit.bse[0]))


def _codes(clusters: Any, n: int) -> np.ndarray:
    """Numbers 0, 1, ... for the clusters, of which there must be two or more."""
    found, codes = codes_of(clusters, n)
    if len(found) < 2:
        raise ValueError(f"An error needs at least two questions, not {len(found)}.")
    return codes


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis=axis) / counts.sum(axis=axis)
