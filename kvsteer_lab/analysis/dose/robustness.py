"""The robustness of a tuned coefficient: the share of coefficients around it that keep most of its gain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ...stats.outcomes import Estimate
from ...stats.shares import paired_difference
from ...stats.significance import control_p, mcnemar
from .objectives import Objective, check_objective

_LEVEL = 0.05
_TIE = 1e-9  # shares are sums of floats; equal ones must compare as equal


def robustness_curve(outcomes: pd.DataFrame, objective: Objective = "correct", keep: float = 0.8) -> pd.DataFrame:
    """The gain over the baseline at each ratio c / c*, and what is kept of the gain at c*.

    Args:
        outcomes: from `robustness_outcomes`, of one method or several put together by `pd.concat`.
        objective: the gain is one in accuracy (`"correct"`) or in the share of replies that reason.
        keep: the share of the gain at c* that has to be kept.

    Returns:
        One row per method and ratio: `method`, `ratio`, `coefficient`, `dose`, `n`; `gain` with its 95% interval `low`,
        `high` (paired bootstrap over
        questions); `needed`, the gain at c* times `keep`; `kept`, whether this gain is as large, missing where the gain
        at c* is not distinguishable from zero. With controls `random`, their mean gain, `random_low`, `random_high`,
        the middle 95% of them, `random_kept`, the share of them that reach `needed`.

    Raises:
        ValueError: as `robustness`.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [("m", ratio, ratio, ratio, "steering", q, ratio >= 1) for ratio in (0.5, 1, 2) for q in range(20)]
        >>> rows += [("m", None, None, None, "baseline", q, False) for q in range(20)]
        >>> columns = ["method", "ratio", "coefficient", "dose", "vector", "question", "correct"]
        >>> outcomes = pd.DataFrame(rows, columns=columns)
        >>> kv.analysis.robustness_curve(outcomes)[["ratio", "gain", "kept"]].values.tolist()
        [[0.5, 0.0, False], [1.0, 1.0, True], [2.0, 1.0, True]]
    """
    tables = []
    for run in _gains_by_method(outcomes, objective, keep):
        gains = [run.gain(point) for point in range(len(run.ratios))]
        needed = keep * gains[run.star].value
        table = pd.DataFrame(
            dict(method=run.method, ratio=run.ratios, coefficient=run.coefficients, dose=run.doses, n=run.n)
        )
        table["gain"], table["low"], table["high"] = (
            [getattr(g, name) for g in gains] for name in ("value", "low", "high")
        )
        table["needed"] = needed
        defined = run.told
        table["kept"] = (table.gain >= needed - _TIE) if defined else pd.NA
        table["kept"] = table.kept.astype("boolean")
        if run.random is not None:
            each = run.random.mean(-1)
            table["random"] = each.mean(0)
            table["random_low"], table["random_high"] = np.quantile(each, [0.025, 0.975], axis=0)
            table["random_kept"] = (each >= needed - _TIE).mean(0) if defined else math.nan
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def robustness(
    outcomes: pd.DataFrame, objective: Objective = "correct", keep: float = 0.8, *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The share of the grid around c* that keeps most of the gain at c*, and the same of random vectors against the
    steering's gain.

    R = #{i : gain(c_i) >= keep gain(c*)} / #{i}, where gain(c) is the accuracy at c minus the baseline's, on the same
    questions. c* is on the grid and always counts, so R is at least 1 / points. A random vector's R holds its gains
    against the *steering's* gain at c*. Where that gain is not distinguishable from zero (exact McNemar test, p <=
    0.05) there is nothing to keep a share of, and R is NaN with a reason.

    Args:
        outcomes, objective, keep: as in `robustness_curve`.
        resamples, seed: of the bootstrap over questions (and over random vectors, for their mean).

    Returns:
        One row per method: `method`, `coefficient` and `dose` at c*, `n`, `points`, `gain` at c* with its 95% interval
        `gain_low`, `gain_high` (Newcombe's); `robustness` with
        its 95% interval `low`, `high`; `random`, the mean of the random vectors' numbers, with its interval
        `random_low`, `random_high`, `random_most`, the largest of them, and `p_random`, the share of them (plus one)
        that is at least as large as the steering's; `reason`, why a number is missing. A resample whose gain at c* is
        not above zero counts as 0.

    Raises:
        ValueError: no outcomes, columns missing, a grid without c*, questions that are not the same everywhere, fewer
            than two questions, no resamples, an unknown objective, or a share to keep that doesn't lie between 0 and 1.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> rows = [("m", ratio, ratio, ratio, "steering", q, ratio >= 1) for ratio in (0.5, 1, 2) for q in range(20)]
        >>> rows += [("m", None, None, None, "baseline", q, False) for q in range(20)]
        >>> columns = ["method", "ratio", "coefficient", "dose", "vector", "question", "correct"]
        >>> outcomes = pd.DataFrame(rows, columns=columns)
        >>> kv.analysis.robustness(outcomes, resamples=200).robustness.round(2).tolist()
        [0.67]
    """
    if resamples < 1:
        raise ValueError(f"An interval needs resamples, not {resamples}; take 2000.")
    rows = []
    for run in _gains_by_method(outcomes, objective, keep):
        gain = run.gain(run.star)
        row: dict[str, Any] = dict(
            method=run.method,
            coefficient=run.coefficients[run.star],
            dose=run.doses[run.star],
            n=run.n,
            points=len(run.ratios),
        )
        row |= dict(gain=gain.value, gain_low=gain.low, gain_high=gain.high)
        if run.told:
            row |= _numbers(run, keep, resamples, seed) | dict(reason="")
        else:
            found = (
                f"The gain at c* is {gain.value:.2f} (exact McNemar p = {run.p:.2f}), not distinguishable from zero,"
                " so there is nothing to keep a share of."
            )
            row |= dict(reason=found)
        rows.append(row)
    numbers = [
        "robustness",
        "low",
        "high",
        *(["random", "random_low", "random_high", "random_most", "p_random"] if _has_controls(outcomes) else []),
    ]
    order = ["method", "coefficient", "dose", "n", "points", "gain", "gain_low", "gain_high", *numbers, "reason"]
    return pd.DataFrame(rows).reindex(columns=order).astype({name: float for name in numbers})


@dataclass(frozen=True)
class _Gains:
    """One method's outcomes minus the baseline's."""

    method: str
    ratios: Float[np.ndarray, " points"]
    coefficients: list[float]
    doses: list[float]
    star: int
    baseline: Float[np.ndarray, " questions"]
    steered: Float[np.ndarray, "points questions"]
    random: Float[np.ndarray, "vectors points questions"] | None

    @property
    def n(self) -> int:
        return self.steered.shape[1]

    def gain(self, point: int) -> Estimate:
        """The paired difference from the baseline at one coefficient, with Newcombe's interval."""
        return paired_difference((self.steered[point] + self.baseline).tolist(), self.baseline.tolist())

    @property
    def p(self) -> float:
        """The exact McNemar test of the gain at c*; it holds for a handful of questions, too."""
        gain = self.steered[self.star]
        return mcnemar((gain > 0).tolist(), (gain < 0).tolist())

    @property
    def told(self) -> bool:
        """Whether there is a gain at c* to keep a share of."""
        return bool(self.steered[self.star].mean() > 0 and self.p <= _LEVEL)


def _numbers(run: _Gains, keep: float, resamples: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(run.n, np.full(run.n, 1 / run.n), size=resamples) / run.n

    def shares(gains: np.ndarray, star: np.ndarray) -> np.ndarray:
        """Over the last axis, of gains [..., points]; 0 where the gain at c* [...] is not above zero."""
        return np.where(star > _TIE, (gains >= keep * star[..., None] - _TIE).mean(-1), 0.0)

    star = run.steered[run.star]
    number = float(shares(run.steered.mean(-1), np.asarray(star.mean())))
    low, high = np.quantile(shares(weights @ run.steered.T, weights @ star), [0.025, 0.975])
    found = dict(robustness=number, low=float(low), high=float(high))
    if run.random is not None:
        each = shares(run.random.mean(-1), np.full(len(run.random), star.mean()))
        again = np.stack([shares(weights @ vector.T, weights @ star) for vector in run.random])
        drawn = rng.integers(len(again), size=(resamples, len(again)))
        low, high = np.quantile(again[drawn, np.arange(resamples)[:, None]].mean(-1), [0.025, 0.975])
        found |= dict(
            random=float(each.mean()), random_low=float(low), random_high=float(high), random_most=float(each.max())
        )
        found |= dict(p_random=control_p(number, each.tolist()))
    return found


def _gains_by_method(outcomes: pd.DataFrame, objective: Objective, keep: float) -> list[_Gains]:
    check_objective(objective)
    if not 0 < keep <= 1:
        raise ValueError(f"The share of the gain to keep must lie between 0 and 1, not be {keep}.")
    missing = {"method", "ratio", "coefficient", "dose", "vector", "question", objective} - set(outcomes.columns)
    if missing or outcomes.empty:
        raise ValueError(
            "There are no outcomes with ratios, vectors and questions here; pass what kv.analysis.robustness_outcomes"
            " returned."
        )
    return [_gains_of(str(method), part, objective) for method, part in outcomes.groupby("method", sort=False)]


def _gains_of(method: str, part: pd.DataFrame, objective: str) -> _Gains:
    part = part.assign(value=part[objective].astype(float))
    base = part[part.vector == "baseline"].set_index("question").value
    steered = part[part.vector == "steering"].drop_duplicates("ratio").sort_values("ratio")
    if base.empty or steered.empty:
        raise ValueError(
            f"The outcomes of {method!r} need rows of the baseline and of the steering; take them from one finished"
            " run."
        )
    ratios = steered.ratio.to_numpy(float)
    stars = np.flatnonzero(np.isclose(ratios, 1.0))
    if len(stars) != 1:
        raise ValueError(
            f"The grid of {method!r} doesn't hold c* (a ratio of 1), so there is no gain to keep a share of; run it"
            " around the tuned coefficient."
        )
    if len(base) < 2 or not base.index.is_unique:
        raise ValueError(
            f"The outcomes of {method!r} need at least two questions, each once for a vector and coefficient; take them"
            " from one finished run."
        )

    def gains(vector: str) -> Float[np.ndarray, "points questions"]:
        table = (
            part[part.vector == vector]
            .pivot(index="ratio", columns="question", values="value")
            .reindex(index=ratios, columns=base.index)
        )
        if table.isna().any(axis=None):
            raise ValueError(
                f"The outcomes of {method!r} need the same questions at every coefficient and vector; take them from"
                " one finished run."
            )
        return table.to_numpy() - base.to_numpy()

    drawn = [gains(name) for name in dict.fromkeys(part.vector) if name not in ("baseline", "steering")]
    return _Gains(
        method,
        ratios,
        steered.coefficient.tolist(),
        steered.dose.tolist(),
        int(stars[0]),
        base.to_numpy(),
        gains("steering"),
        np.stack(drawn) if drawn else None,
    )


def _has_controls(outcomes: pd.DataFrame) -> bool:
    return bool((~outcomes.vector.isin(("baseline", "steering"))).any())
