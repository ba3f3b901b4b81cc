"""What a method changes beside accuracy: length, truncation, loops, refusals, empty replies, and preference for certain
letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from ..stats.intervals import paired_bootstrap
from ..stats.texts import is_loop, is_refusal
from .results import Results
from .verdicts import by_question, check_measured, counted, warn_of_interruption


def side_effects(results: Results, baseline: str = "baseline") -> pd.DataFrame:
    """What each intervention does to the replies beside their accuracy, over all samples of each question.

    Args:
        results: of an evaluation.
        baseline: the intervention that lengths and letters are compared with.

    Returns:
        One row an intervention (controls left out): `tokens`, the mean length, and `longer` with its 95% interval
        `longer_low`, `longer_high`: the paired difference in length from the baseline, in tokens (bootstrap over
        questions); `truncated`, the share cut at `max_new_tokens`; `repetition`, the mean share of repeated 4-grams;
        `loops`, `blank` (no text at all) and `refused`, shares of replies; `unread`, the share in which the main rule
        reads no answer; `style`, the commonest one, and its `style_share`. For multiple choice also `letter_shift`:
        half the sum of absolute differences between the shares of letters chosen here and by the baseline (0: the same,
        1: none in common), and `letter_p`, the Stuart-Maxwell test of equal shares on the same questions, clustered by
        question. `None` counts as a letter. Of an interrupted run the columns `n` and `planned` say how many questions
        of how many are counted.

    Raises:
        ValueError: no such baseline, replies without a length, or an intervention that answered other questions than
            the baseline.

    Warns:
        UserWarning: the run was interrupted.

    Examples:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> results = kv.evaluate(model, task, kv.CoTPrompt(), n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> kv.side_effects(results).loc["baseline", "refused"]
        np.float64(0.0)
    """
    check_measured(results.rows)
    if not results.complete:
        warn_of_interruption(results.rows, results.settings, above=3)
    reference = results.of(baseline)
    lettered = results.rows.gold.str.fullmatch("[A-Z]").all()
    table: dict[str, dict[str, Any]] = {}
    for label in results.interventions:
        part = results.of(label)
        if set(part.question) != set(reference.question):
            raise ValueError(
                f"{label!r} and {baseline!r} answered different questions; merge the whole run before you compare them."
            )
        row: dict[str, Any] = {} if results.complete else dict(counted(part, results.settings, complete=False))
        row["tokens"] = part.tokens.mean()
        if label != baseline:
            lengths = by_question(reference, "tokens")
            longer = paired_bootstrap(by_question(part, "tokens").loc[lengths.index].tolist(), lengths.tolist())
            row |= dict(longer=longer.value, longer_low=longer.low, longer_high=longer.high)
        row |= _texts(part, results.rules[0])
        if lettered and label != baseline:
            sides = [(side.read_answer.tolist(), side.question.tolist()) for side in (part, reference)]
            row["letter_shift"], row["letter_p"] = letter_shift(sides[0][0], sides[1][0], sides[0][1], sides[1][1])
        table[label] = row
    order = list(dict.fromkeys(column for label in [*results.interventions[::-1], baseline] for column in table[label]))
    frame = pd.DataFrame.from_dict(table, orient="index").reindex(columns=order)
    frame.index.name = "intervention"
    return frame


def _texts(part: pd.DataFrame, rule: str) -> dict[str, Any]:
    whole = part.forced + part.text
    styles = part["style"].value_counts(normalize=True)
    return dict(
        truncated=(part.finish_reason == "length").mean(),
        repetition=part.repetition.mean(),
        loops=whole.map(is_loop).mean(),
        blank=(whole.str.strip() == "").mean(),
        refused=whole.map(is_refusal).mean(),
        unread=part[f"by_{rule}"].isna().mean(),
        style=styles.index[0],
        style_share=styles.iloc[0],
    )


def letter_shift(
    ours: Sequence[str | None],
    theirs: Sequence[str | None],
    questions: Sequence[Any] | None = None,
    their_questions: Sequence[Any] | None = None,
) -> tuple[float, float]:
    """How far the shares of chosen letters moved, and the Stuart-Maxwell test that they did not move.

    With d the difference of the two sides' letter shares of one question, the statistic is D' V^+ D with D the sum of d
    over the questions and V the sum of d d'; its degrees of freedom are V's rank. With one answer a question this is
    the test of Stuart (1955) and Maxwell (1970); letters that nobody moved to or from change nothing, and groups of
    letters that exchange answers only among themselves are no obstacle.

    Args:
        ours, theirs: the letters chosen; without `questions` for the same questions in one order.
        questions: the question of each of ours; `None`: one answer a question.
        their_questions: the question of each of theirs; `None`: the same as ours.

    Returns:
        The total variation distance between the two shares of letters (0: the same, 1: none in common), and the
        p-value.

    Raises:
        ValueError: no answers, or sides that answer different questions.

    Examples:
        >>> from kvsteer_lab.evaluation.side_effects import letter_shift
        >>> shift, p = letter_shift(list("AAAAAAAA"), list("ABABABAB"))
        >>> shift, round(p, 3)
        (0.5, 0.046)
    """
    ids = range(len(ours)) if questions is None else questions
    other_ids = ids if their_questions is None else their_questions
    a, b = (_letter_shares(side, of) for side, of in ((ours, ids), (theirs, other_ids)))
    if not len(a) or set(a.index) != set(b.index):
        raise ValueError("Letters are compared on the same questions; pass answers of both sides to each of them.")
    difference = a.sub(b.loc[a.index], fill_value=0.0).to_numpy(float)
    total = difference.sum(0)
    covariance = difference.T @ difference
    rank = int(np.linalg.matrix_rank(covariance, tol=1e-9, hermitian=True))
    shift = float(np.abs(total).sum() / 2 / len(a))
    if rank == 0:
        return shift, 1.0
    return shift, float(chi2.sf(total @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ total, rank))


def _letter_shares(letters: Sequence[str | None], questions: Sequence[Any]) -> pd.DataFrame:
    """The share of each letter among the answers to each question: a row a question."""
    if len(letters) != len(questions):
        raise ValueError(f"There are {len(letters)} letters for {len(questions)} answers; pass one for each answer.")
    named = ["none" if pd.isna(letter) else str(letter) for letter in letters]
    return pd.crosstab(pd.Series(list(questions), name="question"), pd.Series(named, name="letter"), normalize="index")
