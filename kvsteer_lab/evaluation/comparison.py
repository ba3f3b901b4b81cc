"""Interventions compared over tasks: paired differences with intervals, and Holm's correction over the declared
family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..stats.shares import paired_difference
from ..stats.significance import holm_family, paired_permutation
from .results import Results
from .verdicts import by_question, check_measured, counted, warn_of_interruption

_COLUMNS = (
    *("task", "model", "intervention", "n", "samples", "planned", "accuracy", "against"),
    *("gain", "low", "high", "gained", "lost", "p"),
)


def compare(
    runs: Results | Sequence[Results], against: str = "baseline", interventions: Sequence[str] | None = None
) -> pd.DataFrame:
    """Gain in accuracy of each intervention over `against`, on the same questions; one row an intervention and task.

    All rows together are the family that Holm's correction is made for: every named intervention on every task. Declare
    it before looking.

    Args:
        runs: results of one or several tasks.
        against: the label of what is compared with: the baseline, the chain-of-thought prompt, the response prefill.
        interventions: labels to compare; `None`: all but `against`, controls left out.

    Returns:
        Columns `task`, `model`, `intervention`, `n` (questions; with several sampled replies to each also `samples`,
        and of an interrupted run `planned`),
        `accuracy`, `against` (its accuracy), `gain` with its 95% interval `low`, `high` (Newcombe's for paired shares,
        clustered by question: `kv.stats.paired_difference`), `gained` and `lost` (questions with a larger and a smaller
        share of right replies), `p` (exact McNemar; with several samples the exact permutation test of whole questions,
        `kv.stats.paired_permutation`), `p_holm`.

    Raises:
        ValueError: no runs, a label that a run does not have, two runs of one model and task, replies without a
            verdict, or two interventions that answered different questions.

    Warns:
        UserWarning: a run was interrupted.

    Examples:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> results = kv.evaluate(model, task, kv.CoTPrompt(), n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> kv.compare(results)[["intervention", "n"]].to_numpy().tolist()
        [['no offset', 2], ['CoT prompt', 2]]
    """
    given = [runs] if isinstance(runs, Results) else list(runs)
    if not given:
        raise ValueError("There is nothing to compare; pass the results of at least one evaluation.")
    rows = []
    for results in given:
        check_measured(results.rows, ("correct",))
        if not results.complete:
            warn_of_interruption(results.rows, results.settings, above=3)
        labels = _labels(results, against, interventions)
        theirs = results.of(against)
        rows += [_row(results, label, results.of(label), theirs) for label in labels]
    names = [name for name in _COLUMNS if any(name in row for row in rows)]
    table = pd.DataFrame(rows, columns=names)
    comparisons = [" | ".join(key) for key in zip(table.model, table.task, table.intervention, strict=True)]
    if len(set(comparisons)) < len(comparisons):
        raise ValueError(
            "Two of the runs have the same model, task and interventions; compare one run of each, or the family counts"
            " them twice."
        )
    table["p_holm"] = list(holm_family(dict(zip(comparisons, table.p, strict=True))).values())
    return table


def _row(results: Results, label: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    if set(ours.question) != set(theirs.question):
        raise ValueError(
            f"In the run of {results.settings['task']} {label!r} answered other questions than what it is compared"
            " with;"
            " merge the whole run first."
        )
    verdicts = ours.correct.tolist(), theirs.correct.tolist()
    questions = dict(clusters=ours.question.tolist(), their_clusters=theirs.question.tolist())
    gain = paired_difference(*verdicts, **questions)
    shares, their_shares = by_question(ours, "correct").align(by_question(theirs, "correct"))
    return {
        **dict(task=results.settings["task"], model=results.settings["model"], intervention=label),
        **counted(ours, results.settings, results.complete),
        **dict(accuracy=ours.correct.mean(), against=theirs.correct.mean()),
        **dict(gain=gain.value, low=gain.low, high=gain.high),
        **dict(gained=int((shares > their_shares).sum()), lost=int((shares < their_shares).sum())),
        "p": paired_permutation(*verdicts, **questions),
    }


def _labels(results: Results, against: str, interventions: Sequence[str] | None) -> list[str]:
    """The interventions of a run that are compared with `against`."""
    wanted = [
        against,
        *(
            interventions
            if interventions is not None
            else [label for label in results.interventions if label != against]
        ),
    ]
    for label in wanted:
        if label not in results.interventions:
            raise ValueError(
                f"The run of {results.settings['task']} has no intervention {label!r}; choose one of:"
                f" {', '.join(results.interventions)}."
            )
    if len(wanted) < 2:
        raise ValueError(
            f"There is nothing but {against!r} in the run of {results.settings['task']}; evaluate at least one"
            " intervention."
        )
    return [label for label in dict.fromkeys(wanted) if label != against]
