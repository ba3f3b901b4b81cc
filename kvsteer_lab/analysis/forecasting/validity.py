"""The validity of forecasts: rank correlations between forecasts and measured effects, over all points, between groups
of points, and within groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import rankdata

from ...stats.significance import holm

FORECASTS = ("agreement", "stability", "signal_to_noise")
PLAIN = ("pairs", "norm")
"""What is known without a forecast: how many pairs there are, and how long their mean is."""

_ROUNDING = 1e-9


def forecast_correlations(
    table: pd.DataFrame,
    forecasts: Sequence[str] = (*FORECASTS, *PLAIN),
    effect: str = "effect",
    strata: Sequence[str] = ("style",),
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's correlation of each forecast with the realised effect, over all points, and taken apart by what the
    points share.

    Points of one place (a model's keys or values, in some layers) share the place, those of one set its pairs, and sets
    of one style the style. So a
    correlation over all points may be no more than the contrast of two models, two layers or two styles. The scopes:

    * `"all points"`: as they come. Resampled are sets, at the places looked at; there is no p-value, for the points are
      not independent draws.
    * `"between places"`: of the places' means; resampled and permuted are places.
    * `"within places, between style"`: of the styles' means, ranked within each place; resampled and permuted are
      styles, the same ones at all places.
    * `"within places and style"`: ranked within each place and style; resampled and permuted are sets, which keep their
      effects at all places. Here a forecast tells the better of two vectors that are meant to do the same thing.

    Where an effect or a forecast is the same throughout a place (or a style at a place) there is nothing to rank, and
    its points aren't counted.

    Args:
        table: from `analysis.realised_effects`; of several models, one below the other, with the same sets and places.
        forecasts: columns to try, all in one family. By default the three forecasts, and beside them what one knows
            without them.
        effect: the column that is forecast.
        strata: columns of the sets that take the place of the style; none: sets are only ranked within places.
        resamples: of the bootstrap, and permutations.
        seed: fixes both.

    Returns:
        One row per scope and forecast: `scope`, `forecast`, `points` (those that are ranked), `rho`, its 95% percentile
        interval `low`, `high`, the two-sided
        permutation `p`, and `p_holm`, corrected for all tests of this table. Empty where nothing varies.

    Raises:
        ValueError: a table without these columns, fewer than three points, no resamples, sets and places that aren't
            fully crossed, NaN, or an effect that is the same at all points.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"model": "m", "place": "values", "set": list("abcd"), "style": "stepwise"})
        >>> table = table.assign(agreement=[0.1, 0.2, 0.3, 0.4], effect=[0.0, 0.2, 0.5, 0.9])
        >>> found = kv.analysis.forecast_correlations(table, ["agreement"], resamples=99)
        >>> found[["scope", "rho"]].values.tolist()[0]
        ['all points', 1.0]
    """
    missing = [c for c in ("model", "set", "place", *strata, *forecasts, effect) if c not in table.columns]
    if missing or not forecasts:
        raise ValueError(
            f"The table has no column {missing[0]!r}; pass the one that realised_effects returned."
            if missing
            else "Name at least one forecast."
        )
    if resamples < 1:
        raise ValueError(f"Intervals and p-values need resamples, not {resamples}; take 1000.")
    if len(table) < 3:
        raise ValueError(f"A correlation takes at least three points, not {len(table)}.")
    crossed = {
        name: table.pivot_table(index="set", columns=["model", "place"], values=name, sort=False, dropna=False)
        for name in (*forecasts, effect)
    }
    sets, places = crossed[effect].shape
    if sets * places != len(table) or any(grid.isna().to_numpy().any() for grid in crossed.values()):
        raise ValueError(
            "Every set must be there once at every place of every model, with a number in each column; run all of them,"
            " or drop the rest."
        )
    y = crossed[effect].to_numpy(float)
    if y.max() - y.min() < _ROUNDING:
        raise ValueError(
            f"The column {effect!r} is {y.flat[0]:.3g} at all points, so nothing correlates with it; choose a"
            " relative strength at which something differs."
        )
    named, group = ", ".join(strata), np.zeros(sets, int)
    if strata:
        group = (
            table.groupby("set", sort=False)[list(strata)]
            .first()
            .loc[crossed[effect].index]
            .groupby(list(strata), sort=False)
            .ngroup()
            .to_numpy()
        )
    rows: list[tuple[Any, ...]] = []
    for name in forecasts:
        x = crossed[name].to_numpy(float)
        rows.append(("all points", name, *_over_all(x, y, resamples, seed)))
        rows.append(
            (
                "between places",
                name,
                *_within(x.mean(0)[:, None], y.mean(0)[:, None], np.zeros(places, int), resamples, seed),
            )
        )
        if strata:
            own, theirs = (np.stack([side[members].mean(0) for members in _members(group)]) for side in (x, y))
            rows.append(
                (
                    f"within places, between {named}",
                    name,
                    *_within(own, theirs, np.zeros(len(own), int), resamples, seed),
                )
            )
        rows.append(
            (f"within places and {named}" if strata else "within places", name, *_within(x, y, group, resamples, seed))
        )
    order = list(dict.fromkeys(scope for scope, *_ in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    found = pd.DataFrame(rows, columns=["scope", "forecast", "points", "rho", "low", "high", "p"])
    tested = found.p.dropna()
    return found.assign(p_holm=pd.Series(holm(tested.tolist()), index=tested.index, dtype=float))


class _Judged(NamedTuple):
    points: int
    rho: float
    low: float
    high: float
    p: float


_NOTHING = _Judged(0, *(float("nan"),) * 4)


def _over_all(
    x: Float[np.ndarray, "sets places"], y: Float[np.ndarray, "sets places"], resamples: int, seed: int
) -> _Judged:
    sets = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    (rho,), (points,) = _correlate(x.reshape(1, -1, 1), y.reshape(1, -1, 1), np.zeros(x.size, int))
    if np.isnan(rho):
        return _NOTHING
    mine, theirs = (side[sets].reshape(resamples, -1, 1) for side in (x, y))
    low, high = _interval(_correlate(mine, theirs, np.zeros(x.size, int))[0])
    return _Judged(int(points), float(rho), low, high, float("nan"))


def _within(
    x: Float[np.ndarray, "rows columns"],
    y: Float[np.ndarray, "rows columns"],
    group: Int[np.ndarray, " rows"],
    resamples: int,
    seed: int,
) -> _Judged:
    """Rows are resampled and permuted whole, within their groups."""
    rng = np.random.default_rng(seed)
    drawn, mixed = np.empty((2, resamples, len(x)), int)
    for members in _members(group):
        drawn[:, members] = members[rng.integers(len(members), size=(resamples, len(members)))]
        mixed[:, members] = rng.permuted(np.tile(members, (resamples, 1)), axis=1)
    (rho,), (points,) = _correlate(x[None], y[None], group)
    if np.isnan(rho):
        return _NOTHING
    low, high = _interval(_correlate(x[drawn], y[drawn], group)[0])
    by_chance = _correlate(x[None], y[mixed], group)[0]
    p = (1 + np.sum(np.abs(by_chance) >= abs(rho) - _ROUNDING)) / (resamples + 1)
    return _Judged(int(points), float(rho), low, high, float(p))


def _correlate(
    x: Float[np.ndarray, "draws rows columns"],
    y: Float[np.ndarray, "draws rows columns"],
    group: Int[np.ndarray, " rows"],
) -> tuple[Float[np.ndarray, " draws"], Int[np.ndarray, " draws"]]:
    """Correlation of ranks within each column and group of rows, pooled, and how many points stand in columns and
    groups where both sides vary.
    """
    sums, points = np.zeros((3, 1)), np.zeros(1, int)
    for members in _members(group):
        a, b = (rankdata(side[:, members], axis=1) - (len(members) + 1) / 2 for side in (x, y))
        products = np.stack(np.broadcast_arrays((a * b).sum(1), (a * a).sum(1), (b * b).sum(1)))  # 3, draws, columns
        vary = (products[1] > 0) & (products[2] > 0)
        sums = sums + (products * vary).sum(-1)
        points = points + len(members) * vary.sum(-1)
    across, own, other = sums
    return np.divide(across, np.sqrt(own * other), out=np.full_like(across, np.nan), where=own * other > 0), points


def _members(group: Int[np.ndarray, " rows"]) -> list[Int[np.ndarray, " members"]]:
    return [np.flatnonzero(group == g) for g in np.unique(group)]


def _interval(drawn: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """The middle 95%; none where more than 5% of the resamples hold nothing that varies, for the rest are not a fair
    sample of them.
    """
    if np.isnan(drawn).mean() > 0.05:
        return float("nan"), float("nan")
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)
