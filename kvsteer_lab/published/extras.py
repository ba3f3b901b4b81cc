"""Adopted styles and measured times: what the release holds beside accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..stats.intervals import wilson
from ..tasks.styles import STYLES
from .arms import Arm
from .release import Timing
from .sources import Problem, shown

_STYLE = ["model", "task", "style", "n", "adopted", "low", "high", "without", "other", "half_repeated", "file"]
_TIME = [
    "file",
    "method",
    "batch_size",
    "runs",
    "ms_per_token",
    "fastest",
    "slowest",
    "ratio",
    "tokens_per_answer",
    "ratio_per_answer",
]


def style_adoption(among: Sequence[Arm]) -> pd.DataFrame:
    """How often replies steered towards a style have it, by `kvsteer_lab.tasks.styles.detect_style`: one row a
    style-transfer run.

    Columns: `adopted` with its 95% Wilson interval; `without`, the share among the plain baseline's replies to the same
    questions, whose limit of tokens may differ; `other`, the commonest style or "other"; `half_repeated`, the share in
    which half the 4-grams are repeats.
    """
    rows = []
    for arm in (arm for arm in among if arm.group == "style"):
        run = arm.runs[0].run
        wanted = next((style for style in STYLES if (run.style or "").startswith(style)), None)
        found = arm.answers["style"] == wanted
        low, high = wilson(int(found.sum()), len(found))
        asked = set(arm.answers.question)
        plain = [
            other.answers[other.answers.question.isin(asked)]
            for other in among
            if other.kind == "baseline" and other.cell[:2] == arm.cell[:2]
        ]
        without = (plain[0]["style"] == wanted).mean() if plain and len(plain[0]) else math.nan
        common = dict(
            other=arm.answers["style"].mode().iloc[0], half_repeated=(arm.answers.repeated >= 0.5).mean(), file=run.file
        )
        rows.append(
            dict(
                model=run.model,
                task=run.task,
                style=run.style,
                n=len(found),
                adopted=found.mean(),
                low=low,
                high=high,
                without=without,
                **common,
            )
        )
    return pd.DataFrame(rows, columns=_STYLE)


def latency(timings: Sequence[Timing]) -> tuple[pd.DataFrame, list[Problem]]:
    """Time a token and an answer by method and batch size, and ratios to the baseline of the same file and batch; what
    is unreadable as problems.

    Columns: `ms_per_token`, the mean over runs, with `fastest` and `slowest`; `ratio`; `tokens_per_answer`, padding of
    a batch included, as the file counts it; `ratio_per_answer`, that of the time until an answer is finished, which
    grows with its length.
    """
    rows: list[dict[str, Any]] = []
    problems = []
    for timing in timings:
        for label, runs in timing.measured.items():
            good = [run for run in runs.values() if _is_measured(run)] if isinstance(runs, dict) else []
            if not isinstance(runs, dict) or len(good) < len(runs) or not good:
                problems.append(Problem(timing.file, f"has an entry without usable times ({label!r})"))
            if good:
                rows.append({"file": timing.file, **_row(str(label), good)})
    table = pd.DataFrame(rows, columns=[*_TIME, "seconds_per_answer"])
    plain = table[table.method == "baseline"].drop_duplicates(["file", "batch_size"]).set_index(["file", "batch_size"])
    for i, row in table.iterrows():
        if (row.file, row.batch_size) in plain.index:
            base = plain.loc[(row.file, row.batch_size)]
            table.loc[i, "ratio"] = row.ms_per_token / base.ms_per_token
            table.loc[i, "ratio_per_answer"] = row.seconds_per_answer / base.seconds_per_answer
    return table[_TIME], problems


def _row(label: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    times = [1000 * run["time_per_token"] for run in runs]
    batch = int(runs[0]["batch_size"])
    tokens = sum(run.get("average_generated_tokens", math.nan) for run in runs) / len(runs) / batch
    continuous = runs[0].get("continuous")
    method = shown(str(runs[0].get("name", label))).replace("_", " ") + (
        "" if continuous is None else ", every token" if continuous else ", one-shot"
    )
    mean = sum(times) / len(times)
    ends = dict(ms_per_token=mean, fastest=min(times), slowest=max(times))
    return dict(
        method=method,
        batch_size=batch,
        runs=len(runs),
        **ends,
        tokens_per_answer=tokens,
        seconds_per_answer=mean * tokens / 1000,
    )


def _is_measured(run: Any) -> bool:
    if not isinstance(run, dict):
        return False
    numbers = [run.get("time_per_token"), run.get("batch_size"), run.get("average_generated_tokens", 1.0)]
    return all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and x > 0 for x in numbers)
