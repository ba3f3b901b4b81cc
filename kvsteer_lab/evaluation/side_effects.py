"""What a method does beside accuracy: length, truncation, loops, refusals, empty replies, and a taste for certain
letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import SquareTable

from ..stats.intervals import paired_bootstrap
from ..stats.texts import is_loop, is_refusal
from .results import Results


def side_effects(results: Results, baseline: str = "baseline") -> pd.DataFrame:
    """One row an intervention (controls left out), the first sample of each question.

    Columns: `tokens`, the mean length, and `longer` with its 95% interval `longer_low`, `longer_high`: the paired
    difference in length from the baseline, in tokens; `truncated`, the share cut at `max_new_tokens`; `repetition`, the
    mean share of repeated 4-grams; `loops`, `blank` (no text at all) and `refused`, shares of replies; `unread`, the
    share in which the main rule reads no answer; `style`, the commonest one, and its `style_share`. For multiple choice
    also `letter_shift`: half the sum of absolute differences between the shares of letters chosen here and by the
    baseline (0: the
    same, 1: none in common), and `letter_p`, the Stuart-Maxwell test of equal shares on the same questions. `None`
    counts as a letter.

    Raises:
        ValueError: no such baseline.
    """
    first = results.rows[results.rows["sample"] == 0]
    reference = results.of(baseline)
    reference = reference[reference["sample"] == 0].set_index("question")
    lettered = first.gold.str.fullmatch("[A-Z]").all()
    table: dict[str, dict[str, Any]] = {}
    for label in results.interventions:
        part = first[first.intervention == label].set_index("question").loc[reference.index]
        whole = part.forced + part.text
        styles = part["style"].value_counts(normalize=True)
        row: dict[str, Any] = dict(tokens=part.tokens.mean())
        if label != baseline:
            longer = paired_bootstrap(part.tokens.tolist(), reference.tokens.tolist())
            row |= dict(longer=longer.value, longer_low=longer.low, longer_high=longer.high)
        row |= dict(
            truncated=(part.finish_reason == "length").mean(),
            repetition=part.repetition.mean(),
            loops=whole.map(is_loop).mean(),
            blank=(whole.str.strip() == "").mean(),
            refused=whole.map(is_refusal).mean(),
            unread=part[f"by_{results.rules[0]}"].isna().mean(),
            style=styles.index[0],
            style_share=styles.iloc[0],
        )
        if lettered and label != baseline:
            row["letter_shift"], row["letter_p"] = letter_shift(
                part.read_answer.tolist(), reference.read_answer.tolist()
            )
        table[label] = row
    order = list(dict.fromkeys(column for label in [*results.interventions[::-1], baseline] for column in table[label]))
    frame = pd.DataFrame.from_dict(table, orient="index").reindex(columns=order)
    frame.index.name = "intervention"
    return frame


def letter_shift(ours: Sequence[str | None], theirs: Sequence[str | None]) -> tuple[float, float]:
    """How far the shares of chosen letters moved (total variation distance), and the Stuart-Maxwell p-value that they
    didn't.

    Args:
        ours, theirs: the letters chosen for the same questions, in one order.
    """
    a, b = (["none" if x is None or x != x else str(x) for x in side] for side in (ours, theirs))
    letters = sorted({*a, *b})
    counts = pd.crosstab(pd.Categorical(a, letters), pd.Categorical(b, letters), dropna=False).to_numpy(float)
    shift = float(np.abs(counts.sum(0) - counts.sum(1)).sum() / 2 / len(a))
    moved = [i for i in range(len(letters)) if counts[i].sum() + counts[:, i].sum() > 2 * counts[i, i]]
    if len(moved) < 2:
        return shift, 1.0
    test = SquareTable(counts[np.ix_(moved, moved)], shift_zeros=False).homogeneity("stuart_maxwell")
    return shift, float(test.pvalue) if np.isfinite(test.pvalue) else 1.0
