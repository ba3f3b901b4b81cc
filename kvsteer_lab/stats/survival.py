"""Lengths of texts some of which were cut: a cut text's length is only known to be longer, which is right-censoring."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import CensoredData, ecdf

from .outcomes import refuse_nan


class CensoredLengths(NamedTuple):
    """Lengths some of which are censored.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.censored_lengths([4, 9, 12], [False, False, True]).median
        9.0
    """

    n: int
    """How many texts."""
    cut: int
    """How many of them were cut."""
    finished_mean: float
    """The mean length of those that were not; NaN where all were. It leaves out the longest."""
    restricted_mean: float
    """The mean of the shorter of length and limit: the area under the Kaplan-Meier curve up to the longest length
    seen."""
    median: float
    """The Kaplan-Meier median; infinite where more than half were cut before they could tell."""
    low: float
    """The lower end of the median's 95% interval."""
    high: float
    """The upper end; infinite where the curve doesn't come down far enough."""


def censored_lengths(lengths: Sequence[float], cut: Sequence[bool]) -> CensoredLengths:
    """Mean and median length where some texts were cut, estimated as survival times (Kaplan and Meier 1958).

    Where all texts have one limit, the restricted mean is the plain mean of what was seen, and says so by its name. The
    median's interval holds the lengths at which the curve's log-log interval (Greenwood's variance) holds one half.

    Args:
        lengths: of the texts, up to where they were cut.
        cut: which of them were.

    Returns:
        The estimates.

    Raises:
        ValueError: no texts, sequences of different length, or NaN.

    Examples:
        >>> import kvsteer_lab as kv
        >>> found = kv.stats.censored_lengths([10, 20, 96, 96, 96], [False, False, True, True, True])
        >>> found.finished_mean, round(found.restricted_mean, 1), found.median
        (15.0, 63.6, inf)
    """
    x, over = np.asarray(lengths, dtype=float), np.asarray(cut, dtype=bool)
    if x.ndim != 1 or x.size == 0 or x.shape != over.shape:
        raise ValueError(f"Each length needs a mark that says whether its text was cut, not {x.size} and {over.size}.")
    refuse_nan(x)
    ended = x[~over]
    mean = float(ended.mean()) if ended.size else math.nan
    if not ended.size:
        return CensoredLengths(x.size, int(over.sum()), mean, float(x.mean()), math.inf, float(x.min()), math.inf)
    curve = ecdf(CensoredData(uncensored=ended, right=x[over])).sf
    times, alive = curve.quantiles, curve.probabilities
    steps = np.concatenate([[0.0], times, [max(x.max(), times[-1])]])
    area = float((np.diff(steps) * np.concatenate([[1.0], alive])).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where everything has ended the interval has no width, and that is NaN
        band = curve.confidence_interval(method="log-log")
    low, high = (np.nan_to_num(side.probabilities, nan=0.0) for side in (band.low, band.high))
    return CensoredLengths(
        x.size,
        int(over.sum()),
        mean,
        area,
        _first(times, alive <= 0.5),
        _first(times, low <= 0.5),
        _first(times, high <= 0.5),
    )


def _first(times: np.ndarray, below: np.ndarray) -> float:
    return float(times[below][0]) if below.any() else math.inf
