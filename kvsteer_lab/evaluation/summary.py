"""The table that summarises an evaluation: accuracy with intervals, an exact test against the baseline, and the
controls beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..stats.significance import control_p, holm, paired_permutation
from .measures import lengths, share
from .verdicts import check_measured, counted


def summarise(rows: pd.DataFrame, settings: Mapping[str, Any], complete: bool, baseline: str) -> pd.DataFrame:
    """One row an intervention, over all samples of each question; see `Results.summary`.

    Args:
        rows, settings, complete: of the `Results`.
        baseline: the label of the intervention that the others are tested against.

    Returns:
        The table.

    Raises:
        ValueError: a reply without a verdict or a length.
    """
    check_measured(rows)

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        row = counted(part, settings, complete) | share(part.correct, "accuracy", questions=part.question)
        return row | dict(reasoned=part.reasoned.mean(), **lengths(part), repetition=part.repetition.mean())

    own, controls = rows[rows.control_of.isna()], rows[rows.control_of.notna()]
    table = {label: measure(part) for label, part in own.groupby("intervention", sort=False)}
    _test(own, table, baseline)
    columns = []
    for (steered, kind), part in controls.groupby(["control_of", "control_kind"], sort=False):
        each = part.groupby("intervention")[["correct", "reasoned"]].mean()
        if len(each) == 1:  # one control makes no distribution: it stands by itself
            table[each.index[0]] = measure(part)
            continue
        columns += [f"p_{kind.replace(' ', '_')}", f"p_{kind.replace(' ', '_')}_reasoned"]
        if steered in table:
            table[steered][columns[-2]] = control_p(table[steered]["accuracy"], each.correct.tolist())
            table[steered][columns[-1]] = control_p(table[steered]["reasoned"], each.reasoned.tolist())
        whose = "" if controls.control_of.nunique() == 1 else f" for {steered}"
        bounds = dict(low=each.correct.quantile(0.025), high=each.correct.quantile(0.975))
        table[f"{len(each)} {kind} vectors{whose}"] = measure(part) | bounds
    sizes = [name for name in ("n", "samples", "planned") if any(name in row for row in table.values())]
    means = ["accuracy", "low", "high", "p", "p_holm", "reasoned", "tokens", "truncated", "repetition"]
    order = [*sizes, *means, *dict.fromkeys(columns)]
    summary = pd.DataFrame.from_dict(table, orient="index").reindex(columns=order)
    summary.index.name = "intervention"
    return summary.astype({c: float for c in order if c not in sizes})


def _test(own: pd.DataFrame, table: dict[str, dict[str, Any]], baseline: str) -> None:
    """Put `p` and `p_holm` into the rows of a table, where there is a baseline to test against."""
    reference = own[own.intervention == baseline]
    if reference.empty:
        return
    for label, part in own.groupby("intervention", sort=False):
        if label != baseline:
            verdicts, theirs = part.correct.tolist(), reference.correct.tolist()
            table[label]["p"] = paired_permutation(
                verdicts, theirs, part.question.tolist(), reference.question.tolist()
            )
    tested = [label for label in table if "p" in table[label]]
    for label, p in zip(tested, holm([table[label]["p"] for label in tested]), strict=True):
        table[label]["p_holm"] = p
