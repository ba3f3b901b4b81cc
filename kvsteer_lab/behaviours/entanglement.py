"""Entanglement: steer one behaviour and measure the others, with intervals, paired tests and random controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..evaluation.evaluate import evaluate_all
from ..evaluation.results import Results
from ..interventions.base import Intervention
from ..interventions.steering import Steering
from ..models.model import Model
from ..stats.significance import holm
from ..tasks.base import Task
from .behaviour import Behaviour

_COLUMNS = [
    *("n", "baseline", "value", "low", "high", "difference", "difference_low", "difference_high", "p", "p_holm"),
    *("random", "random_low", "random_high", "p_random", "tokens", "more_tokens", "cut", "loop"),
]


def entangle(
    model: Model,
    steerings: Mapping[str, Intervention],
    measured: Sequence[Behaviour | Task],
    *,
    n: int | None = 24,
    split: str = "test",
    controls: int = 5,
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """What each intervention does to each behaviour: steer A, measure B.

    Put `kv.behaviours.get("over-refusal")` and `get("facts")`, or any benchmark, among what is measured: a steering
    that does what it should and spoils these isn't worth having.

    Args:
        model: from `kv.load`.
        steerings: interventions by what they are for; of each steering random controls are in the same run.
        measured: behaviours, or tasks (their accuracy is measured).
        n, split, seed, offset, generation, batch_size, progress: as in `kv.evaluate`; `n` is cut to what a split has.
        controls: random controls of every steering: p can't be below 1 / (controls + 1).
        out: folder with a run for each behaviour; a run that was stopped goes on there.

    Returns:
        One row a steered and a measured behaviour: the share of replies that show it without (`baseline`) and with
        steering (`value`), Wilson's interval `low`, `high`; the paired `difference` with Newcombe's; `p`, exact
        McNemar; `p_holm` over the whole table; `random`, the mean over random vectors of the same size, with the middle
        95% of them and `p_random` (two-sided); `tokens` and how many more than the baseline's; the shares of replies
        that reached the limit (`cut`) and that end in a `loop`.

    Raises:
        ValueError: nothing to steer or to measure, two with the same name, or what `kv.evaluate` refuses.
        OSError: `out` can't be written.

    >>> import kvsteer_lab as kv
    >>> told = {"brief": kv.behaviours.SystemPrompt("Be brief.")}
    >>> few = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
    >>> table = entangle(kv.load("tiny"), told, [kv.behaviours.get("brief"), kv.behaviours.get("facts")], **few)
    >>> list(table.index)
    [('brief', 'brief'), ('brief', 'facts')]
    """
    if not steerings or not measured:
        raise ValueError("Entanglement needs something to steer and something to measure; pass at least one of each.")
    labels = [steering.label for steering in steerings.values()]
    names = [one.name for one in measured]
    for given, what in ((labels, "labels"), (names, "names")):
        if double := next((one for one in given if given.count(one) > 1), None):
            raise ValueError(f"Two of the {what} are {double!r}, so the table couldn't tell them apart; rename one.")
    drawn = [
        control
        for steering in steerings.values()
        if controls and isinstance(steering, Steering)
        for control in steering.controls(controls, seed)
    ]
    methods = [*steerings.values(), *drawn]
    rows: list[dict[str, Any]] = []
    for one in measured:
        task = one.task if isinstance(one, Behaviour) else one
        there = len(task.questions(split))
        results = evaluate_all(
            model,
            task,
            methods,
            n=there if n is None else min(n, there),
            split=split,
            seed=seed,
            offset=offset,
            generation=generation,
            batch_size=batch_size,
            out=None if out is None else Path(out) / one.name,
            progress=progress,
        )
        rows += tabulate_one(results, {steered: method.label for steered, method in steerings.items()}, one.name)
    return with_holm(rows)


def tabulate_one(results: Results, labels: Mapping[str, str], name: str) -> list[dict[str, Any]]:
    """The rows of the table for one measured behaviour.

    Args:
        results: of a run on its questions, with the baseline and the controls.
        labels: what is steered -> the intervention's label.
        name: what was measured.
    """
    table = results.measure(["accuracy", "tokens", "loop"]).outcomes_table()
    plain = {outcome: float(table.loc[(outcome, "baseline"), "value"]) for outcome in ("accuracy", "tokens")}
    found = []
    for steered, label in labels.items():
        own, length = table.loc[("accuracy", label)], table.loc[("tokens", label)]
        drawn = results.rows[results.rows.control_of == label]
        row = dict(
            steered=steered,
            measured=name,
            baseline=plain["accuracy"],
            random=float(drawn.correct.mean()) if len(drawn) else math.nan,
            tokens=float(length["value"]),
            more_tokens=float(length["value"]) - plain["tokens"],
            cut=float(length["cut"]),
            loop=float(table.loc[("loop", label), "value"]),
        )
        kept = [c for c in _COLUMNS if c not in row and c in table.columns]
        found.append(row | {column: own[column] for column in kept if column != "p_holm"})
    return found


def with_holm(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table, its p-values corrected over all of its tests.

    Args:
        rows: of `tabulate_one`.

    >>> with_holm([dict(steered="a", measured="b", p=0.01), dict(steered="a", measured="c", p=0.04)]).p_holm.tolist()
    [0.02, 0.04]
    """
    table = pd.DataFrame(list(rows)).set_index(["steered", "measured"])
    tested = table["p"].notna()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].tolist())
    return table.reindex(columns=[c for c in _COLUMNS if c in table.columns])
