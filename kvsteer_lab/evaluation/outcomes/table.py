"""The table of outcomes: for each its interval, its paired test against the baseline, and its control p-value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...stats.intervals import paired_bootstrap
from ...stats.outcomes import Estimate
from ...stats.permutation import paired_means_permutation
from ...stats.shares import clustered_share, paired_difference
from ...stats.significance import control_p, holm, paired_permutation
from ...stats.survival import censored_lengths
from .outcome import SHARE, Outcome

_RESAMPLES = 2000
_DIVERGENCE = "nats"  # never below 0, which is the baseline's: a test against it would always find something
_NOTHING = Estimate(math.nan, math.nan, math.nan, math.nan)


def tabulate(
    rows: pd.DataFrame, values: pd.DataFrame, outcomes: Sequence[Outcome], baseline: str, seed: int
) -> pd.DataFrame:
    """One row an outcome and intervention; see `Results.outcomes_table`.

    Args:
        rows: of `Results`.
        values: one column an outcome, as `measure_rows` gives them.
        outcomes: those of the table.
        baseline: the label of what the others are tested against.
        seed: of the bootstrap and of permutations.

    Returns:
        The table.
    """
    control = rows.control_of.notna()
    labels = list(dict.fromkeys(rows.intervention[~control]))
    table: dict[tuple[str, str], dict[str, Any]] = {}
    columns: list[str] = []
    for outcome in outcomes:
        given = values[outcome.name]
        if given.isna().all():
            continue  # not measured
        share = outcome.unit == SHARE or (not outcome.unit and bool(given.dropna().isin((0.0, 1.0)).all()))
        side = {label: _Side.of(rows, given, rows.intervention == label) for label in labels}
        reference = side.get(baseline)
        for label, own in side.items():
            table[outcome.name, label] = own.describe(outcome, share, seed)
            if reference is not None and label != baseline and outcome.unit != _DIVERGENCE:
                table[outcome.name, label] |= own.against(reference, share, seed)
        centre = math.nan if reference is None else reference.mean
        for (steered, kind), part in rows[control].groupby(["control_of", "control_kind"], sort=False):
            each = given[part.index].groupby(part.intervention, sort=False).mean().dropna()
            if steered not in side or math.isnan(side[steered].mean) or math.isnan(centre) or len(each) < 2:
                continue
            name = kind.replace(" ", "_")
            low, high = np.quantile(each, [0.025, 0.975])
            moved = control_p(abs(side[steered].mean - centre), (each - centre).abs().tolist())
            found = {f"{name}_low": low, f"{name}_high": high, f"p_{name}": moved}
            columns += found
            table[outcome.name, steered] |= found
    tested = [key for key, row in table.items() if "p" in row]
    for key, p in zip(tested, holm([table[key]["p"] for key in tested]), strict=True):
        table[key]["p_holm"] = p
    order = ["unit", "n", "value", "low", "high", "difference", "difference_low", "difference_high", "p", "p_holm"]
    order += [*dict.fromkeys(columns), "cut", "median"]
    index = pd.MultiIndex.from_tuples(list(table), names=["outcome", "intervention"])
    return pd.DataFrame(list(table.values()), index=index).reindex(columns=order)


class _Side:
    """The values of one intervention: those that apply, with the question of each."""

    def __init__(self, values: pd.Series, questions: pd.Series, cut: pd.Series) -> None:
        self.values, self.questions, self.cut = values, questions, cut

    @classmethod
    def of(cls, rows: pd.DataFrame, values: pd.Series, chosen: pd.Series) -> _Side:
        known = chosen & values.notna()
        return cls(values[known], rows.question[known], (rows.finish_reason == "length")[known])

    @property
    def mean(self) -> float:
        return float(self.values.mean()) if len(self.values) else math.nan

    def on(self, questions: set[Any]) -> _Side:
        kept = self.questions.isin(questions)
        return _Side(self.values[kept], self.questions[kept], self.cut[kept])

    def describe(self, outcome: Outcome, share: bool, seed: int) -> dict[str, Any]:
        """Size, mean and interval; of lengths also how many are only lower bounds."""
        values, questions = self.values.tolist(), self.questions.tolist()
        found = _NOTHING
        if share and values:
            found = clustered_share(values, questions)
        elif self.questions.nunique() > 1:
            found = paired_bootstrap(values, [0.0] * len(values), clusters=questions, n=_RESAMPLES, seed=seed)
        row = dict(unit=outcome.unit or (SHARE if share else ""), n=self.questions.nunique(), value=self.mean)
        row |= dict(low=found.low, high=found.high)
        if outcome.is_length and values:
            row |= dict(cut=float(self.cut.mean()), median=censored_lengths(values, self.cut.tolist()).median)
        return row

    def against(self, other: _Side, share: bool, seed: int) -> dict[str, Any]:
        """The paired difference from the baseline on the questions to which both have values."""
        both = set(self.questions) & set(other.questions)
        if not both:
            return {}
        ours, theirs = self.on(both), other.on(both)
        a, b = ours.values.tolist(), theirs.values.tolist()
        names = (ours.questions.tolist(), theirs.questions.tolist())
        if share:
            found = paired_difference(a, b, clusters=names[0], their_clusters=names[1])
            p = paired_permutation(a, b, *names)
        else:
            p = paired_means_permutation(a, b, *names, seed=seed)
            means = [side.values.groupby(side.questions).mean().sort_index() for side in (ours, theirs)]
            found = Estimate(float((means[0] - means[1]).mean()), math.nan, math.nan, math.nan)
            if len(both) > 1:
                found = paired_bootstrap(means[0].tolist(), means[1].tolist(), n=_RESAMPLES, seed=seed)
        return dict(difference=found.value, difference_low=found.low, difference_high=found.high, p=p)


def length_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an intervention; see `Results.lengths`.

    Args:
        rows: of `Results`.
    """
    own = rows[rows.control_of.isna()]
    table: Mapping[str, Any] = {
        label: censored_lengths(part.tokens.tolist(), (part.finish_reason == "length").tolist())._asdict()
        for label, part in own.groupby("intervention", sort=False)
    }
    frame = pd.DataFrame.from_dict(dict(table), orient="index").rename_axis("intervention")
    frame.insert(2, "cut_share", frame.cut / frame.n)
    return frame
