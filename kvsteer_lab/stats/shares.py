"""Shares of answers and their differences: intervals that keep a width where all answers agree.

Every outcome here is true or false. Intervals of a single share are Wilson's; intervals of a difference on the same
questions are Newcombe's, put together from the two Wilson intervals and the correlation of the two methods. Where a
question has several sampled answers, the questions and not the
answers are independent: the same formulas then hold with an effective number of answers between the number of questions
(all answers to a question agree) and the number of answers (they are independent).

The percentile bootstrap is not used for shares: it resamples what was seen, so it has no width where nothing differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from .outcomes import ByQuestion, Estimate, by_question, paired_questions

HALF = 0.5
"""How many imaginary questions are always gained, and how many always lost, where spread and correlation of questions
with several answers are estimated.

Without them questions that all agree would seem to have no spread at all.
"""


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, (low, high).

    Args:
        successes: how many.
        n: of how many trials.
        confidence: share of such intervals that hold the true share.

    Returns:
        The two ends, between 0 and 1.

    Raises:
        ValueError: no trials, or more successes than trials.

    Examples:
        >>> import kvsteer_lab as kv
        >>> low, high = kv.stats.wilson(81, 263)
        >>> f"{low:.4f} {high:.4f}"
        '0.2553 0.3662'
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials are not a share; pass 0 <= successes <= n and n >= 1.")
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return float(low) if successes else 0.0, float(
        high
    ) if successes < n else 1.0  # exact at the ends, where rounding leaves 1e-17


def clustered_share(hits: Sequence[bool], clusters: Sequence[Any] | None = None, confidence: float = 0.95) -> Estimate:
    """A share of answers with Wilson's interval, for several answers a question.

    Every question counts the same. The interval is Wilson's with the effective number of answers p (1 - p) / variance
    of the mean over questions (Dean and Pagano 2015), kept between the number of questions and the number of answers;
    the variance is estimated with `HALF` an imaginary question that is always right and as much of one that is always
    wrong. With one answer a question it is Wilson's interval.

    Args:
        hits: whether each answer has the property.
        clusters: the question of each answer; `None`: every answer stands for itself.
        confidence: share of such intervals that hold the true share.

    Returns:
        The share, its interval, and the standard error over questions.

    Raises:
        ValueError: no answers, answers that are neither true nor false, or as many clusters as answers are not given.

    Examples:
        >>> import kvsteer_lab as kv
        >>> once = kv.stats.clustered_share([True, False, True, True])
        >>> (once.low, once.high) == kv.stats.wilson(3, 4)
        True
        >>> copied = kv.stats.clustered_share([True, False, True, True] * 8, ["a", "b", "c", "d"] * 8)
        >>> round(copied.low, 6) == round(once.low, 6)  # the same answers eight times tell nothing more
        True
    """
    side = by_question(hits, clusters)
    low, high = _score(side, confidence)
    return Estimate(side.mean, low, high, side.error)


def paired_difference(
    ours: Sequence[bool],
    theirs: Sequence[bool],
    confidence: float = 0.95,
    *,
    clusters: Sequence[Any] | None = None,
    their_clusters: Sequence[Any] | None = None,
) -> Estimate:
    """The difference of two shares on the same questions, with Newcombe's interval for paired data (1998, method 10).

    It is put together from both shares' Wilson intervals and their correlation, and unlike a bootstrap it keeps a width
    where all outcomes agree. With shares p and q, their intervals (l, u) and (m, v), the correlation r and d = p - q,
    it runs from d - sqrt((p - l)^2 - 2 r (p - l) (v - q) + (v - q)^2) to d + sqrt((u - p)^2 - 2 r (u - p) (q - m) + (q
    - m)^2).

    With several answers a question (`clusters`) the intervals are those of `clustered_share` and r is the correlation
    of the questions' shares (Zou and Donner 2008), with `HALF` an imaginary question gained and as much of one lost;
    every question counts the same.

    Args:
        ours, theirs: verdicts; without `clusters` in one order of the questions.
        confidence: of the interval.
        clusters: the question of each of our verdicts; `None`: one verdict a question.
        their_clusters: the question of each of theirs; `None`: the same as ours.

    Returns:
        The difference, its interval, and its standard error over questions.

    Raises:
        ValueError: sequences of different length, empty ones, outcomes that are neither true nor false, or sides that
            answer different questions.

    Examples:
        # nothing differs, which does not show that nothing ever would
        >>> import kvsteer_lab as kv
        >>> same = kv.stats.paired_difference([True] * 200, [True] * 200)
        >>> f"{same.value:+.3f} {same.low:+.3f} {same.high:+.3f}"
        '+0.000 -0.019 +0.019'
        >>> gain = kv.stats.paired_difference([True, True, True, False], [True, False, False, False])
        >>> f"{gain.value:+.2f} {gain.low:+.2f} {gain.high:+.2f}"
        '+0.50 -0.14 +0.79'
    """
    a, b = paired_questions(ours, theirs, clusters, their_clusters)
    (low, high), (other_low, other_high) = _score(a, confidence), _score(b, confidence)
    p, q, r = a.mean, b.mean, _correlation(a, b)
    below, above = (p - low, other_high - q), (high - p, q - other_low)
    down, up = (math.sqrt(max(x * x - 2 * r * x * y + y * y, 0.0)) for x, y in (below, above))
    error = math.sqrt(max((a.means - b.means).var() / len(a.means), 0.0))
    return Estimate(p - q, max(-1.0, p - q - down), min(1.0, p - q + up), error)


def vector_difference(
    ours: Float[np.ndarray, "vectors questions"], theirs: Sequence[bool], confidence: float = 0.95
) -> Estimate:
    """The gain of one more vector extracted like these, over both its sources of chance: the extraction pairs and the
    questions.

    Each row of `ours` holds the verdicts of one vector. Newcombe's interval of each vector's gain says how far chance
    in the questions reaches; their root mean square is joined with the spread of the vectors' gains, Student's
    prediction interval for one more of K: t s sqrt(1 + 1/K). So more vectors describe that spread more finely, but do
    not make it smaller, and where no verdict differs the width of Newcombe's interval is left.

    Args:
        ours: verdicts, vectors x questions; few vectors tell little of their spread (t is 12.7 for two, 2.8 for five).
        theirs: the baseline's verdicts on the same questions.
        confidence: of the interval.

    Returns:
        The mean gain, its interval, and its standard error.

    Raises:
        ValueError: shapes that do not fit, verdicts that are neither true nor false, or fewer than two vectors or
            questions.

    Examples:
        >>> import numpy as np
        >>> import kvsteer_lab as kv
        >>> rng = np.random.default_rng(0)
        >>> gain = kv.stats.vector_difference(rng.random((40, 50)) < 0.8, rng.random(50) < 0.5)
        >>> gain.low < gain.value < gain.high
        True
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.ndim != 2 or b.shape != a.shape[1:] or min(a.shape) < 2:
        raise ValueError(
            "Verdicts must be at least 2 vectors x 2 questions, and a baseline on these questions, not"
            f" {a.shape} and {b.shape}."
        )
    each = [paired_difference(row.tolist(), b.tolist(), confidence) for row in a]
    return _over_vectors(each, confidence, -1.0)


def vector_share(hits: Float[np.ndarray, "vectors questions"], confidence: float = 0.95) -> Estimate:
    """The share of hits that one more vector extracted like these would have: `vector_difference` without a baseline.

    Args:
        hits: whether each reply has the property, vectors x questions.
        confidence: of the interval.

    Returns:
        The mean share, its interval, and its standard error.

    Raises:
        ValueError: fewer than two vectors, no questions, or hits that are neither true nor false.

    Examples:
        >>> import kvsteer_lab as kv
        >>> whole = kv.stats.vector_share([[True] * 20] * 3)
        >>> (whole.low, whole.high) == kv.stats.wilson(20, 20)
        True
    """
    a = np.asarray(hits, dtype=float)
    if a.ndim != 2 or a.shape[0] < 2 or a.shape[1] < 1:
        raise ValueError(f"Hits must be at least 2 vectors x 1 question, not {a.shape}.")
    return _over_vectors([clustered_share(row.tolist(), confidence=confidence) for row in a], confidence, 0.0)


def _over_vectors(each: Sequence[Estimate], confidence: float, least: float) -> Estimate:
    value, low, high, error = np.array(each).T
    spread = float(t.ppf((1 + confidence) / 2, len(value) - 1) * value.std(ddof=1)) * math.sqrt(1 + 1 / len(value))
    down, up = (math.sqrt(float(np.mean(side**2)) + spread**2) for side in (value - low, high - value))
    mean = float(value.mean())
    return Estimate(
        mean, max(least, mean - down), min(1.0, mean + up), math.sqrt(float(np.mean(error**2) + value.var()))
    )


def _score(side: ByQuestion, confidence: float) -> tuple[float, float]:
    """Wilson's interval with the effective number of answers; the plain one where each question has one answer."""
    questions, answers, p = len(side.means), int(side.counts.sum()), side.mean
    if questions == answers:
        return wilson(round(p * questions), questions, confidence)
    middle = (side.means.sum() + HALF) / (questions + 2 * HALF)
    spread = np.sum((side.means - middle) ** 2) + HALF * (middle**2 + (1 - middle) ** 2)
    n = float(np.clip((questions + 2 * HALF) * questions * middle * (1 - middle) / spread, questions, answers))
    low, high = proportion_confint(p * n, n, alpha=1 - confidence, method="wilson")
    return float(low) if p > 0 else 0.0, float(high) if p < 1 else 1.0


def _correlation(a: ByQuestion, b: ByQuestion) -> float:
    """Of two methods over the questions; with one answer a question with Newcombe's correction for continuity, 0 where
    one of them never varies.
    """
    n = len(a.means)
    if a.counts.max() > 1 or b.counts.max() > 1:
        x, y = np.append(a.means, (1, 0)), np.append(b.means, (0, 1))
        covariance = np.cov(x, y, aweights=np.append(np.ones(n), (HALF, HALF)), ddof=0)
        return float(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]))
    x, y = a.means, b.means
    both, ours_only, theirs_only, neither = (
        float(np.sum(z)) for z in (x * y, x * (1 - y), (1 - x) * y, (1 - x) * (1 - y))
    )
    product = (both + ours_only) * (both + theirs_only) * (ours_only + neither) * (theirs_only + neither)
    along = both * neither - ours_only * theirs_only
    return 0.0 if product == 0 else (max(along - n / 2, 0.0) if along > 0 else along) / math.sqrt(product)
