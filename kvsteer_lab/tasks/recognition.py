"""How well styles are recognised: against labels given by hand, and in a task's own demonstrations."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import pandas as pd

from ..stats.agreement import agreement
from .base import Task
from .styles import STYLES, detect_style

LEAST_RECOGNISED = 0.5
"""The share of a task's demonstrations in a style that must be recognised for `style` and `reasoned` to mean much."""
_LOOKED_AT = 50


def validate_detectors(labelled: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Precision, recall and Cohen's kappa of `detect_style` on replies that were labelled by hand.

    `docs/style_labels.md` says how replies are labelled and shows the table for those of this repository.

    Args:
        labelled: pairs of a reply and its label, one of `STYLES` or `"other"`.

    Returns:
        As `kv.stats.agreement`: one row a style, and `"all"`.

    Raises:
        ValueError: a label that is no style, or no replies.

    Example:
        >>> import kvsteer_lab as kv
        >>> table = kv.tasks.validate_detectors([("The answer is 4.", "direct"), ("Step 1: 2 + 2 = 4.", "stepwise")])
        >>> table.set_index("label").loc["all", ["given", "recall"]].to_dict()
        {'given': 2.0, 'recall': 1.0}
    """
    pairs = list(labelled)
    for _, label in pairs:
        if label not in (*STYLES, "other"):
            raise ValueError(f"The label {label!r} is no style; use one of: {', '.join(STYLES)}, other.")
    return agreement([label for _, label in pairs], [detect_style(text) for text, _ in pairs])


def recognised_share(task: Task, style: str) -> tuple[int, int]:
    """How many of a task's demonstrations in a style are recognised as that style.

    Args:
        task: its first extraction questions are looked at, 50 at most.
        style: one of `STYLES`.

    Returns:
        How many are recognised, and how many were looked at: 0 where the task has no demonstrations in the style.

    Example:
        >>> import kvsteer_lab as kv
        >>> kv.tasks.recognised_share(kv.tasks.get("tiny-arithmetic"), "stepwise")
        (50, 50)
    """
    shown = _demonstrations(task, style)
    return sum(detect_style(text) == style for text in shown), len(shown)


def warn_unrecognised(task: Task) -> None:
    """Warn of each style of a task whose own demonstrations are mostly not recognised (`LEAST_RECOGNISED`).

    Args:
        task: styles of its own, which no detector knows, are passed over.

    >>> import kvsteer_lab as kv
    >>> warn_unrecognised(kv.tasks.get("tiny-arithmetic"))
    """
    for style in (style for style in task.styles if style in STYLES):
        recognised, n = recognised_share(task, style)
        if recognised < LEAST_RECOGNISED * n:
            warnings.warn(
                f"Only {recognised} of {n} of {task.name}'s own demonstrations in style {style!r} are recognised as"
                f" {style!r}, so the columns 'style' and 'reasoned' will say little about replies in it; rely on other"
                " outcomes, or use demonstrations in a form that kv.tasks.detect_style knows.",
                stacklevel=3,
            )


def _demonstrations(task: Task, style: str) -> list[str]:
    if "extraction" not in task.splits:
        return []
    try:
        questions = task.questions("extraction", _LOOKED_AT)
    except ValueError:  # there are fewer, or none
        try:
            questions = task.questions("extraction")
        except ValueError:
            return []
    return [question.replies[style] for question in questions[:_LOOKED_AT] if style in question.replies]
