"""How sure a number is: intervals of proportions, of paired differences, of means of several samples a question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from .outcomes import paired, refuse_nan


class Estimate(NamedTuple):
    """A number, its confidence interval and its standard error."""

    value: float
    """The number."""
    low: float
    """The lower end."""
    high: float
    """The upper end."""
    error: float
    """The standard error."""


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, (low, high).

    Args:
        successes: how many.
        n: of how many trials.
        confidence: share of such intervals that hold the true proportion.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials make no proportion.")
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    # exact at the ends, where rounding leaves 1e-17
    return float(low) if successes else 0.0, float(high) if successes < n else 1.0


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool], confidence: float = 0.95) -> Estimate:
    """The difference of two shares of the same questions, with Newcombe's interval for paired data (1998, method 10).

    It is put together from both shares' Wilson intervals and their correlation, and unlike a bootstrap it keeps a width
    where all outcomes agree. With shares p and q, their intervals (l, u) and (m, v), the correlation r and d = p - q,
    it runs from d - sqrt((p - l)^2 - 2 r (p - l) (v - q) + (v - q)^2) to d + sqrt((u - p)^2 - 2 r (u - p) (q - m) + (q
    - m)^2).

    Args:
        ours, theirs: verdicts in one order.
        confidence: of the interval.

    Raises:
        ValueError: sequences of different length, empty ones, or outcomes that are neither true nor false.
    """
    a, b = paired(ours, theirs)
    if not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise ValueError("Shares are of outcomes that are true or false; for other numbers use paired_bootstrap.")
    p, q, n = float(a.mean()), float(b.mean()), a.size
    (low, high), (other_low, other_high) = wilson(int(a.sum()), n, confidence), wilson(int(b.sum()), n, confidence)
    both, ours_only, theirs_only, neither = (
        float(np.sum(x)) for x in (a * b, a * (1 - b), (1 - a) * b, (1 - a) * (1 - b))
    )
    spread = (both + ours_only) * (both + theirs_only) * (ours_only + neither) * (theirs_only + neither)
    along = both * neither - ours_only * theirs_only
    r = 0.0 if spread == 0 else (max(along - n / 2, 0.0) if along > 0 else along) / math.sqrt(spread)
    below, above = (p - low, other_high - q), (high - p, q - other_low)
    down, up = (math.sqrt(max(x * x - 2 * r * x * y + y * y, 0.0)) for x, y in (below, above))
    error = math.sqrt(max((a - b).var() / n, 0.0))
    return Estimate(p - q, max(-1.0, p - q - down), min(1.0, p - q + up), error)


def paired_bootstrap(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    clusters: Sequence[Any] | None = None,
    n: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Percentile bootstrap of the mean of `ours - theirs` (Efron 1979).

    Questions are resampled, each with both of its outcomes. With `clusters` (the question of each row, where there are
    several samples a question) whole clusters are.

    Args:
        ours, theirs: outcomes in one order.
        clusters: what each row belongs to; `None`: every row stands for itself.
        n: number of resamples.
        seed: of the resampling.
        confidence: of the interval.

    Raises:
        ValueError: sequences of different length, empty ones, NaN, or fewer than two questions.
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
    """Percentile bootstrap of the mean of `ours - theirs` over both its sources: the extraction pairs and the
    questions.

    Each row of `ours` holds the outcomes of one vector that was extracted from a resample, with replacement, of the
    extraction pairs. A replicate draws one row and resamples the questions, so its variance is the variance of the
    rows' means plus the mean of the rows' own sampling variances. Rows are drawn and not averaged: more rows describe
    the spread between vectors more finely, but don't make it smaller.

    Args:
        ours: outcomes, vectors x questions; forty vectors or more for a 95% interval.
        theirs: the baseline's outcomes on the same questions.
        n, seed, confidence: as in `paired_bootstrap`.

    Raises:
        ValueError: shapes that don't fit, NaN, or fewer than two vectors or questions.
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

    Raises:
        ValueError: sequences of different length, empty ones, NaN, or a single question.
    """
    x = np.asarray(values, dtype=float)
    refuse_nan(x)
    groups = _codes(clusters, x.size)
    fit = OLS(x, np.ones_like(x)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    low, high = fit.conf_int(alpha=1 - confidence)[0]
    return Estimate(float(x.mean()), float(low), float(high), float(fit.bse[0]))


def _codes(clusters: Any, n: int) -> np.ndarray:
    """Numbers 0, 1, ... for the clusters, of which there must be two or more."""
    found, codes = np.unique(np.asarray(clusters), return_inverse=True)
    if codes.shape != (n,):
        raise ValueError(f"There are {n} outcomes but {codes.size} clusters; name the question of each outcome.")
    if len(found) < 2:
        raise ValueError(f"An error needs at least two questions, not {len(found)}.")
    return codes


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis=axis) / counts.sum(axis=axis)
