"""What a search maximises, what it keeps within bounds, and whether there is anything to find."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...stats.permutation import paired_means_permutation
from ...stats.significance import holm, paired_permutation
from ..outcomes.built_in import BUILT_IN
from ..outcomes.measuring import measure_rows
from ..outcomes.outcome import Outcome, as_outcomes

Objective = str | Outcome | Callable[..., Any]
"""`"correct"` (accuracy), `"reasoned"`, the name of another built-in outcome, or an outcome of one's own."""
Bounds = Mapping[str, tuple[float | None, float | None]]
"""Name of a built-in outcome -> its smallest and largest mean that a chosen cell may have; `None`: no bound."""
NOISE = 0.05
"""The level at which a cell differs from the baseline."""


@dataclass(frozen=True)
class Goal:
    """What is maximised, and within which bounds.

    Attributes:
        objective: the outcome that is maximised.
        bounds: of the means of other outcomes.

    >>> Goal.of("reasoned", {"tokens": (None, 60)}).column
    'reasoned'
    """

    objective: Outcome
    bounds: Bounds = field(default_factory=dict)

    @classmethod
    def of(cls, objective: Objective, bounds: Bounds | None) -> Goal:
        """From what the caller names.

        Raises:
            ValueError: an unknown outcome, or bounds that hold nothing.
        """
        given = bounds or {}
        if isinstance(objective, str) and objective not in {"correct", *BUILT_IN}:
            known = ", ".join(repr(name) for name in BUILT_IN if name not in ("accuracy", "reasoned"))
            raise ValueError(f"objective={objective!r} is unknown; choose 'correct' or 'reasoned', or one of {known}.")
        (chosen,) = as_outcomes("accuracy" if objective == "correct" else objective, BUILT_IN)
        as_outcomes(list(given), BUILT_IN)
        for name, (low, high) in given.items():
            if (low is None and high is None) or (low is not None and high is not None and low > high):
                raise ValueError(f"The bounds of {name!r} are {(low, high)}; give the smallest and the largest mean.")
        return cls(chosen, given)

    @property
    def column(self) -> str:
        """The column of the table of cells that is maximised."""
        return self.objective.name

    @property
    def needs_divergence(self) -> bool:
        """Whether KL from the baseline has to be measured."""
        return "kl" in {self.column, *self.bounds}

    def values(self, rows: pd.DataFrame) -> pd.Series:
        """The objective of every reply."""
        if self.column in ("accuracy", "reasoned") and self.objective is BUILT_IN[self.column]:
            return rows["correct" if self.column == "accuracy" else "reasoned"].astype(float)
        return measure_rows(rows, [self.objective], {})[self.column]

    def measure(self, replies: pd.DataFrame) -> dict[str, Any]:
        """The columns that a cell's row gets beside the usual ones: the objective, and what is bounded."""
        row = {} if self.column in ("accuracy", "reasoned") else {self.column: self.values(replies).mean()}
        others = [BUILT_IN[name] for name in self.bounds if name not in (*row, "accuracy", "reasoned", "tokens")]
        row |= measure_rows(replies, others, {}).mean().to_dict()
        return {name: float(value) for name, value in row.items()}

    def allowed(self, cells: pd.DataFrame) -> pd.Series:
        """Which cells lie within the bounds."""
        fits = cells[self.column].notna()
        for name, (low, high) in self.bounds.items():
            fits &= cells[name].between(-math.inf if low is None else low, math.inf if high is None else high)
        return fits

    def is_flat(self, rows: pd.DataFrame, labels: Sequence[str], baseline: str = "baseline") -> bool:
        """Whether no cell differs from the baseline beyond noise: paired tests, Holm-corrected over all cells.

        n questions give no p-value below 2^(1 - n). Where that is too much for so many cells, only an objective that is
        the same on every question is flat.

        Args:
            rows: of `Results`.
            labels: of the cells.
            baseline: what they are compared with; where it is not among the rows, nothing is flat.
        """
        values = self.values(rows)
        known = values.notna()
        sides = {
            str(label): pd.Series(values[part.index].to_numpy(), index=part.question)
            for label, part in rows[known].groupby("intervention", sort=False)
        }
        if baseline not in sides or (rows.intervention == baseline).sum() == 0:
            return False
        share = bool(values[known].isin((0.0, 1.0)).all())
        found, equal, least = [], True, 0.0
        for label in labels:
            both = sides[baseline].index.intersection(sides[label].index) if label in sides else []
            if not len(both):
                continue
            ours, theirs = (side[side.index.isin(both)] for side in (sides[label], sides[baseline]))
            test: Callable[..., float] = paired_permutation if share else paired_means_permutation
            found.append(test(ours.tolist(), theirs.tolist(), ours.index.tolist(), theirs.index.tolist()))
            equal &= bool((ours.groupby(level=0).mean() == theirs.groupby(level=0).mean()).all())
            least = max(least, 2.0 ** (1 - len(set(both))))
        if least * len(found) >= NOISE:
            return equal
        return not any(p < NOISE for p in holm(found))
