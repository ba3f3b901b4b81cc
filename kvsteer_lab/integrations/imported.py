"""Rows of another framework's log as `kv.Results`, so that its runs are compared like all others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..evaluation.results import COLUMNS, Results


def as_results(runs: Sequence[Sequence[Mapping[str, Any]]], settings: Mapping[str, Any]) -> Results:
    """Results of several runs of one task, one run an intervention.

    Args:
        runs: rows by the names of `COLUMNS`, and `data`, what tells whether two rows are of the same question; what a
            log doesn't know is left out and becomes missing.
        settings: of the results; `task` and `model` among them.

    Returns:
        The results.

    Raises:
        ValueError: none, two runs of one intervention, or runs with other questions.

    >>> row = dict(question="t/0", intervention="baseline", correct=True, data="5f")
    >>> as_results([[row], [row | dict(intervention="steered")]], dict(task="t", model="m")).interventions
    ['baseline', 'steered']
    """
    if not runs or not all(runs):
        raise ValueError("There is no answered question to read; give the logs of at least one run.")
    labels = [rows[0]["intervention"] for rows in runs]
    if double := next((label for label in labels if labels.count(label) > 1), None):
        raise ValueError(f"Two of the runs are called {double!r}; tell them apart with name=... when you run them.")
    asked = [{(row["question"], row["data"]) for row in rows} for rows in runs]
    for label, own in zip(labels, asked, strict=True):
        if own != asked[0]:
            raise ValueError(f"{label!r} was asked other questions than {labels[0]!r}; run both on the same ones.")
    plain = dict(sample=0, control_of=None, control_kind=None, text="", forced="", closing="", choice_forced=False)
    rows = [{**dict.fromkeys(COLUMNS), **plain, **row} for run in runs for row in run]
    return Results(pd.DataFrame(rows, columns=list(COLUMNS)), settings)


def as_verdict(value: Any, where: str) -> bool:
    """A metric's value as right or wrong.

    Raises:
        ValueError: a share or another number.

    >>> as_verdict(1.0, "acc"), as_verdict("C", "match")
    (True, True)
    """
    verdict = {"C": 1, "I": 0}.get(value, value) if isinstance(value, str) else value
    if verdict not in (0, 1):
        raise ValueError(f"{where} is {value!r}, neither right (1) nor wrong (0); choose a metric that is.")
    return bool(verdict)


def read_log(path: Path, what: str) -> Any:
    """The JSON in a log, of `.jsonl` a list of its lines; NaN, which frameworks write where there is one answer, is
    kept.

    Raises:
        ValueError: no such file, or one that isn't JSON.

    >>> read_log(Path("none.json"), "The log")
    Traceback (most recent call last):
    ValueError: The log none.json can't be read: No such file or directory.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = path.suffix == ".jsonl"
        return [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
    except OSError as error:
        raise ValueError(f"{what} {path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} {path} isn't JSON, or is cut: {error}.") from error
