"""Interventions against one another, over tasks: paired differences with intervals, and Holm over the declared
family.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..stats.intervals import paired_bootstrap
from ..stats.significance import holm_family, mcnemar
from .results import Results


def compare(
    runs: Results | Sequence[Results], against: str = "baseline", interventions: Sequence[str] | None = None
) -> pd.DataFrame:
    """Gain in accuracy of each intervention over `against`, on the same questions; one row an intervention and task.

    All rows together are the family that Holm's correction is made for: every named intervention on every task. Declare
    it before looking.

    Args:
        runs: results of one or several tasks.
        against: the label of what is compared with: the baseline, the chain-of-thought prompt, the forced prefix.
        interventions: labels to compare; `None`: all but `against`, controls left out.

    Returns:
        Columns `task`, `model`, `intervention`, `n`, `accuracy`, `against` (its accuracy), `gain` with its 95% interval
        `low`, `high` (paired bootstrap over questions), `gained` and `lost` (discordant questions), `p` (exact McNemar,
        one answer a question), `p_holm`.

    Raises:
        ValueError: no runs, a label that a run doesn't have, or two runs of one model and task.
    """
    given = [runs] if isinstance(runs, Results) else list(runs)
    if not given:
        raise ValueError("There is nothing to compare; pass the results of at least one evaluation.")
    rows = []
    for results in given:
        first = results.rows[results.rows["sample"] == 0]
        outcomes = {
            label: first[first.intervention == label].set_index("question").correct
            for label in _labels(results, against, interventions)
        }
        theirs = outcomes.pop(against)
        for label, ours in outcomes.items():
            ours = ours.loc[theirs.index]
            gain = paired_bootstrap(ours.tolist(), theirs.tolist())
            rows.append(
                dict(
                    task=results.settings["task"],
                    model=results.settings["model"],
                    intervention=label,
                    n=len(ours),
                    accuracy=ours.mean(),
                    against=theirs.mean(),
                    gain=gain.value,
                    low=gain.low,
                    high=gain.high,
                    gained=int((ours & ~theirs).sum()),
                    lost=int((theirs & ~ours).sum()),
                    p=mcnemar(ours.tolist(), theirs.tolist()),
                )
            )
    table = pd.DataFrame(rows)
    names = [" | ".join(key) for key in zip(table.model, table.task, table.intervention, strict=True)]
    if len(set(names)) < len(names):
        raise ValueError(
            "Two of the runs have the same model, task and interventions; compare one run of each, or the family counts"
            " them twice."
        )
    table["p_holm"] = list(holm_family(dict(zip(names, table.p, strict=True))).values())
    return table


def _labels(results: Results, against: str, interventions: Sequence[str] | None) -> list[str]:
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
    return list(dict.fromkeys(wanted))
