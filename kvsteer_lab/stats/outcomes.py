"""What statistics take and give: outcomes without gaps, summed up by question, and numbers with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

Values = Float[np.ndarray, "n"]


class Estimate(NamedTuple):
    """A number, its confidence interval and its standard error.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.stats.Estimate(0.5, 0.4, 0.6, 0.05).high
        0.6
    """

    value: float
    """The number."""
    low: float
    """The lower end."""
    high: float
    """The upper end."""
    error: float
    """The standard error."""


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[Values, Values]:
    """Two sequences of outcomes as arrays.

    Raises:
        ValueError: different lengths, empty ones, NaN or infinity.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape or a.size == 0 or a.ndim != 1:
        raise ValueError(f"Paired outcomes need two sequences of one length, not {a.size} and {b.size}.")
    refuse_nan(np.concatenate([a, b]))
    return a, b


def refuse_nan(values: np.ndarray) -> None:
    """Raise a `ValueError` unless all values are finite."""
    if not np.isfinite(values).all():
        raise ValueError(
            "There is NaN or infinity among the outcomes; leave out or repair the rows that have no verdict."
        )


def refuse_numbers(values: np.ndarray) -> None:
    """Raise a `ValueError` unless all values are 0 or 1."""
    if not np.isin(values, (0, 1)).all():
        raise ValueError(
            "These outcomes must be true or false; for other numbers use paired_bootstrap or clustered_mean."
        )


@dataclass(frozen=True)
class ByQuestion:
    """The answers of one side, summed up by question.

    Attributes:
        questions: their ids, sorted.
        means: the share of each question's answers that are true.
        counts: how many answers each question has.
    """

    questions: np.ndarray
    means: Float[np.ndarray, " questions"]
    counts: Int[np.ndarray, " questions"]

    @property
    def mean(self) -> float:
        """Over questions, each counted once."""
        return float(self.means.mean())

    @property
    def error(self) -> float:
        """The standard error over questions."""
        return math.sqrt(max(float(self.means.var()) / len(self.means), 0.0))


def by_question(verdicts: Sequence[bool], clusters: Sequence[Any] | None) -> ByQuestion:
    """True or false answers, summed up by the question they belong to.

    Args:
        verdicts: true or false, one an answer.
        clusters: the question of each; `None`: every answer is a question of its own, in the order given.

    Raises:
        ValueError: no answers, NaN, other numbers, or not one cluster an answer.
    """
    x = np.asarray(verdicts, dtype=float)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"A share needs a sequence of at least one answer, not one of shape {x.shape}.")
    refuse_nan(x)
    refuse_numbers(x)
    if clusters is None:
        return ByQuestion(np.arange(x.size), x, np.ones(x.size, dtype=int))
    found, codes = codes_of(clusters, x.size)
    counts = np.bincount(codes)
    return ByQuestion(found, np.bincount(codes, x) / counts, counts)


def paired_questions(
    ours: Sequence[bool], theirs: Sequence[bool], clusters: Sequence[Any] | None, their_clusters: Sequence[Any] | None
) -> tuple[ByQuestion, ByQuestion]:
    """Both sides of a comparison, question by question.

    Raises:
        ValueError: as `paired` and `by_question`, or sides that answer different questions.
    """
    if clusters is None and their_clusters is not None:
        raise ValueError("Name the question of each answer on both sides (clusters and their_clusters), or on neither.")
    if their_clusters is None:
        paired(ours, theirs)
    a, b = by_question(ours, clusters), by_question(theirs, clusters if their_clusters is None else their_clusters)
    if len(a.questions) != len(b.questions) or (a.questions != b.questions).any():
        raise ValueError("The two sides answer different questions; keep those that both of them answered.")
    return a, b


def codes_of(clusters: Sequence[Any], n: int) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """The distinct clusters, sorted, and the number of each row's cluster among them.

    Raises:
        ValueError: not one cluster a row.
    """
    found, codes = np.unique(np.asarray(clusters), return_inverse=True)
    if codes.shape != (n,):
        raise ValueError(f"There are {n} outcomes but {codes.size} clusters; name the question of each outcome.")
    return found, codes
