"""Whether a difference is more than luck: the exact paired test, its power, families of tests, and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, binomtest
from statsmodels.stats.multitest import multipletests

from .outcomes import paired, refuse_nan


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of paired outcomes: the p-value of the discordant pairs under a fair coin.

    Raises:
        ValueError: sequences of different length, empty ones, or outcomes that are neither true nor false.
    """
    a, b = paired(ours, theirs)
    if not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise ValueError(
            "McNemar's test takes outcomes that are true or false; for other numbers use paired_bootstrap."
        )
    gained, lost = int((a > b).sum()), int((a < b).sum())
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost, 0.5).pvalue)


def mcnemar_power(n: int, discordance: float, effect: float, alpha: float = 0.05) -> float:
    """The chance that the exact McNemar test on `n` questions gives p <= `alpha`.

    The number m of discordant questions is binomial (n, discordance), and of these each is gained with probability
    (1 + effect / discordance) / 2; the power is the sum over m of P(m) P(p <= alpha | m).

    Args:
        n: questions.
        discordance: the share of questions that one method answers correctly and the other doesn't.
        effect: the true difference in accuracy, at most `discordance`.
        alpha: of the two-sided test; the exact test keeps below it.

    Raises:
        ValueError: no questions, or shares that aren't possible.
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

    Raises:
        ValueError: as `mcnemar_power`; or not even an effect as large as the discordance is found that often.
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

    Raises:
        ValueError: something that is no p-value.
    """
    p = np.asarray(p_values, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            "A family of p-values holds something that lies outside 0 to 1, or NaN; test every comparison of the family"
            " first."
        )
    return [float(adjusted) for adjusted in multipletests(p, method="holm")[1]] if p.size else []


def holm_family(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """Holm-adjusted p-values by the name of the comparison; the mapping's names are the declared family.

    Raises:
        ValueError: an empty family, or a declared comparison without a p-value: leaving it out would shrink the family.
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


def control_p(effect: float, controls: Sequence[float]) -> float:
    """How often a control does at least as well: (1 + #{control >= effect}) / (R + 1).

    With R controls it can't be below 1 / (R + 1): take at least 39 for 0.025.

    Raises:
        ValueError: no controls, or NaN.
    """
    if len(controls) == 0:
        raise ValueError("A control-based p-value needs controls; add kv.random_controls(...) to the run.")
    refuse_nan(np.asarray([effect, *controls], dtype=float))
    return (1 + sum(c >= effect for c in controls)) / (len(controls) + 1)
