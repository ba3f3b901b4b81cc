"""What a comparison table says, in sentences that are computed from it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from .._util.terms import label_name
from .methods import ARTICLES, RELEASED, VALUES


def describe_table(table: pd.DataFrame) -> list[str]:
    """The findings of each task in a few sentences; nulls are said as nulls.

    Args:
        table: from `comparison_table`.

    Returns:
        Sentences: the baseline, which methods gain or lose after Holm's correction, how much longer steering makes
        replies and whether random vectors do the same, and what tuning for accuracy left.

    Example:
        >>> import pandas as pd
        >>> rows = [dict(intervention="baseline", accuracy=0.5, low=0.3, high=0.7, tokens=9.0, cut=0.0),
        ...         dict(intervention="CoT prompt", p=0.5, p_holm=0.5, gain=0.1)]
        >>> for line in describe_table(pd.DataFrame(rows).assign(task="piqa", n=20)):
        ...     print(line)
        piqa, 20 questions: the baseline is right on 0.50 [0.30, 0.70] with 9 tokens a reply, 0% of them cut.
        After Holm none of 1 methods gains accuracy and none loses any.
    """
    said = []
    for task, part in table.groupby("task", sort=False):
        rows = {str(row["intervention"]): row for row in part.to_dict("records")}
        base = rows["baseline"]
        said.append(
            f"{task}, {base['n']:.0f} questions: the baseline is right on {base['accuracy']:.2f}"
            f" [{base['low']:.2f}, {base['high']:.2f}] with {base['tokens']:.0f} tokens a reply,"
            f" {base['cut']:.0%} of them cut."
        )
        said.append(_tests(part))
        said += [_length(rows[name]) for name in (RELEASED, ARTICLES) if _has(rows.get(name), "longer")]
        said += [line for name in (RELEASED, VALUES) if name in rows for line in _random(rows[name])]
    return said


def _has(row: Mapping[Hashable, Any] | None, name: str) -> bool:
    return row is not None and pd.notna(row.get(name))


def _tests(part: pd.DataFrame) -> str:
    tested = part[part.p.notna()]
    sure = tested[tested.p_holm < 0.05]
    gains, losses = sure[sure.gain > 0].intervention.tolist(), sure[sure.gain < 0].intervention.tolist()
    up = f"{len(gains)} of {len(tested)} methods gain accuracy ({'; '.join(map(label_name, gains))})" if gains else ""
    up = up or f"none of {len(tested)} methods gains accuracy"
    down = f"{len(losses)} lose some ({'; '.join(map(label_name, losses))})" if losses else "none loses any"
    return f"After Holm {up} and {down}."


def _length(row: Mapping[Hashable, Any]) -> str:
    interval = f"[{row['longer_low']:+.0f}, {row['longer_high']:+.0f}]"
    change = f"accuracy {row['gain']:+.2f} [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]"
    return (
        f"{row['intervention']}: {row['longer']:+.0f} tokens a reply {interval}, {row['cut']:.0%} cut,"
        f" {row['loops']:.0%} in loops; {change}."
    )


def _random(row: Mapping[Hashable, Any]) -> list[str]:
    said = []
    for name, size in (("random", "of the same size"), ("equal_kl", "that move the model as far")):
        if not _has(row, f"{name}_n"):
            continue
        parts = []
        for outcome, form in (("tokens", ".0f"), ("connectives", ".2f"), ("accuracy", ".2f")):
            low, high = (format(row[f"{name}_{outcome}_{end}"], form) for end in ("low", "high"))
            parts.append(f"{outcome} {low} to {high} (p = {row[f'p_{name}_{outcome}']:.2f})")
        said.append(
            f"Random vectors {size} as {row['intervention']}, on {row[f'{name}_n']:.0f} questions (p: that one of them"
            f" reaches the steering): {', '.join(parts)}."
        )
    return said
