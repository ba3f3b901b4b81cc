"""Whether a difference is more than chance: exact paired tests, their power, families of tests, and p-values of
controls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, binomtest

from .outcomes import paired, paired_questions, refuse_nan, refuse_numbers


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of paired outcomes: the p-value of the discordant pairs under a fair coin.

    Args:
        ours, theirs: verdicts in one order of the questions, one a question.

    Returns:
        The p-value; 1 where no pair is discordant.

    Raises:
        ValueError: sequences of different length, empty ones, or outcomes that are neither true nor false.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.mcnemar([True] * 6 + [False] * 4, [False] * 10)  # six gained, none lost: 2 / 2**6
        0.03125
    """
    a, b = paired(ours, theirs)
    refuse_numbers(np.concatenate([a, b]))
    gained, lost = int((a > b).sum()), int((a < b).sum())
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost, 0.5).pvalue)


def paired_permutation(
    ours: Sequence[bool],
    theirs: Sequence[bool],
    clusters: Sequence[Any] | None = None,
    their_clusters: Sequence[Any] | None = None,
) -> float:
    """Exact two-sided permutation test of paired shares where a question has several sampled answers.

    If the two methods do not differ, each question's answers could as well have changed sides, all of them together. So
    every question's difference in shares keeps its size and gets a sign by a fair coin (Fisher's and Pitman's test),
    and the p-value is the share of all 2^n sign patterns whose sum is at least as far from zero as the one that was
    seen. It is computed exactly, without drawing. Answers to one question may depend on each other in any way. With one
    answer a question this is McNemar's exact test.

    Args:
        ours, theirs: verdicts; without `clusters` in one order of the questions.
        clusters: the question of each of our verdicts; `None`: one verdict a question.
        their_clusters: the question of each of theirs; `None`: the same as ours.

    Returns:
        The p-value; 1 where no question differs.

    Raises:
        ValueError: outcomes that are neither true nor false, empty sequences, or sides that answer different questions.

    Examples:
        >>> import kvsteer_lab as kv
        >>> ours, theirs = [True] * 6 + [False] * 4, [False] * 10
        >>> kv.stats.paired_permutation(ours, theirs) == kv.stats.mcnemar(ours, theirs)
        True
        >>> questions = ["a", "b", "c", "d", "e"] * 2  # two answers to each of five questions, all of which gain
        >>> kv.stats.paired_permutation(ours, theirs, questions)  # two of 32 sign patterns are as extreme
        0.0625
    """
    a, b = paired_questions(ours, theirs, clusters, their_clusters)
    scale = math.lcm(*(int(n) for n in {*a.counts.tolist(), *b.counts.tolist()}))
    steps = np.rint((a.means - b.means) * scale).astype(int)
    steps = steps[steps != 0]
    if not steps.size:
        return 1.0
    sizes = np.abs(steps) // math.gcd(*np.abs(steps).tolist())
    total, against = int(sizes.sum()), int(sizes[steps < 0].sum())
    if (sizes == 1).all():  # fair coins of one size: McNemar's binomial tail
        return float(binomtest(against, total, 0.5).pvalue)
    chance = np.zeros(total + 1)  # of each sum of the sizes that a fair coin makes negative
    chance[0] = 1.0
    for size in sizes.tolist():
        half = chance / 2
        chance = half.copy()
        chance[size:] += half[:-size]
    return min(1.0, 2 * float(chance[: min(against, total - against) + 1].sum()))


def mcnemar_power(n: int, discordance: float, effect: float, alpha: float = 0.05) -> float:
    """The chance that the exact McNemar test on `n` questions gives p <= `alpha`.

    The number m of discordant questions is binomial (n, discordance), and of these each is gained with probability
    (1 + effect / discordance) / 2; the power is the sum over m of P(m) P(p <= alpha | m).

    Args:
        n: questions.
        discordance: the share of questions that one method answers correctly and the other doesn't.
        effect: the true difference in accuracy, at most `discordance`.
        alpha: of the two-sided test; the exact test keeps below it.

    Returns:
        A probability.

    Raises:
        ValueError: no questions, or shares that are not possible.

    Examples:
        >>> import kvsteer_lab as kv
        >>> round(kv.stats.mcnemar_power(200, discordance=0.2, effect=0.1), 2)
        0.88
    """
    if n < 1 or not 0 < discordance <= 1 or not 0 <= effect <= discordance or not 0 < alpha < 1:
        found = f"n={n}, discordance={discordance}, effect={effect}, alpha={alpha}"
        raise ValueError(
            f"Power needs n >= 1, 0 < discordance <= 1, 0 <= effect <= discordance and 0 < alpha < 1, not {found}."
        )
    m = np.arange(1, n + 1)
    # the largest count whose lower tail is at most alpha / 2; -1 where there is none
    most = binom.ppf(alpha / 2, m, 0.5)
    most = np.where(binom.cdf(most, m, 0.5) > alpha / 2 * (1 + 1e-12), most - 1, most)
    gained = (1 + effect / discordance) / 2
    found = binom.cdf(most, m, gained) + binom.cdf(most, m, 1 - gained)
    return float(np.sum(binom.pmf(m, n, discordance) * found))


def minimum_detectable_effect(n: int, discordance: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference in accuracy that the exact McNemar test finds with the given power.

    It belongs to the plan of a run: the share of discordant questions is assumed beforehand (from development
    questions, say), never taken from the outcome that is judged.

    Args:
        n: questions.
        discordance: assumed share of questions that one method answers correctly and the other doesn't.
        alpha: of the two-sided test.
        power: how often the effect shall be found.

    Returns:
        The difference in accuracy.

    Raises:
        ValueError: as `mcnemar_power`; or not even an effect as large as the discordance is found that often.

    Examples:
        >>> import kvsteer_lab as kv
        >>> round(kv.stats.minimum_detectable_effect(200, discordance=0.2), 3)
        0.091
    """
    if not 0 < power < 1:
        raise ValueError(f"The power must lie between 0 and 1, not be {power}.")
    best = mcnemar_power(n, discordance, discordance, alpha)
    if best < power:
        raise ValueError(
            f"With {n} questions and a discordance of {discordance:g} the power is at most {best:.2f}; ask more"
            " questions."
        )
    if mcnemar_power(n, discordance, 0.0, alpha) >= power:
        return 0.0
    return float(brentq(lambda effect: mcnemar_power(n, discordance, effect, alpha) - power, 0.0, discordance))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values of one declared family, in the order given.

    Args:
        p_values: one for each comparison of the family.

    Returns:
        As many adjusted p-values; none for an empty family.

    Raises:
        ValueError: something that is not a p-value.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.holm([0.25, 0.125])
        [0.25, 0.25]
    """
    p = np.asarray(p_values, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            "A family of p-values holds something that lies outside 0 to 1, or NaN; test every comparison of the family"
            " first."
        )
    # As statsmodels' multipletests, which also collects garbage: a second in a process that has loaded torch, and a
    # Ctrl-C that comes meanwhile is lost.
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1)
    return adjusted.tolist()


def holm_family(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """Holm-adjusted p-values by the name of the comparison; the mapping's names are the declared family.

    Args:
        p_values: by the name of the comparison.

    Returns:
        The adjusted p-values by the same names.

    Raises:
        ValueError: an empty family, or a declared comparison without a p-value: leaving it out would shrink the family.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.holm_family({"steered": 0.25, "CoT prompt": 0.125})
        {'steered': 0.25, 'CoT prompt': 0.25}
    """
    if not p_values:
        raise ValueError("A family of comparisons can't be empty; declare what is compared.")
    for name, p in p_values.items():
        if p is None or not 0 <= p <= 1:
            raise ValueError(
                f"The declared comparison {name!r} has no p-value ({p}); test it, or declare a smaller family before"
                " looking."
            )
    return dict(zip(p_values, holm([float(p) for p in p_values.values() if p is not None]), strict=True))


ROUNDING = 1e-6
"""Relative to an effect, or to 1 where that is more: differences below it are rounding."""


LEAST_NATS = 1e-3
"""Of log-odds or log-probabilities: less changes no probability by more than .001, and among changes so small the order
of a method and its controls is that of rounding, which differs between processors. The `margin` of changes in nats."""


def control_p(effect: float, controls: Sequence[float], margin: float = 0.0) -> float:
    """How often a control does at least as well: (1 + #{control >= effect}) / (R + 1).

    With R controls it can't be below 1 / (R + 1): take at least 39 for 0.025. Numbers that differ by less than a
    millionth of the effect, or of 1 if that is more, are equal: in float32 that is rounding, and where an edit can't be
    felt all differences are.

    Args:
        effect: of the method.
        controls: the same number for each control.
        margin: by how much a control may stay below and still does as well, where more than rounding says nothing.

    Returns:
        A p-value between 1 / (R + 1) and 1.

    Raises:
        ValueError: no controls, or NaN.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.control_p(0.9, [0.1] * 39)
        0.025
        >>> kv.stats.control_p(0.7357149, [0.7357148] * 39)  # nothing but rounding
        1.0
    """
    if len(controls) == 0:
        raise ValueError("A control-based p-value needs controls; add kv.random_controls(...) to the run.")
    refuse_nan(np.asarray([effect, *controls], dtype=float))
    reached = effect - max(margin, ROUNDING * max(1.0, abs(effect)))
    return (1 + sum(c >= reached for c in controls)) / (len(controls) + 1)
