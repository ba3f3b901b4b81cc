"""Evaluations that are kept without a folder of their own: where `KVSTEER_RUNS` says, by what they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..tasks.base import Question
from .identity import hash_of
from .plan import EvaluationPlan
from .run_identity import identify

FOLDER = "KVSTEER_RUNS"
"""The environment variable that names the folder."""


def kept_place(plan: EvaluationPlan, questions: Sequence[Question]) -> Path | None:
    """Where an evaluation without `out` is kept, so that a program that was killed goes on when it is started again.

    The folder is named by everything that can change a text, so what is found there is what would be generated.

    Args:
        plan: everything that is fixed but the questions.
        questions: all of them.

    Returns:
        `None`: nowhere. `KVSTEER_RUNS` isn't set, two questions share an id, or an intervention has no description.

    Example:
        >>> import unittest.mock
        >>> import kvsteer_lab as kv
        >>> task = kv.tasks.get("tiny-arithmetic")
        >>> model, short = kv.load("tiny"), {"max_new_tokens": 4}
        >>> plan = EvaluationPlan(model, task, (kv.Nothing(),), None, short, 1, 0, "steered", 8)
        >>> with unittest.mock.patch.dict(os.environ, KVSTEER_RUNS="runs"):
        ...     kept_place(plan, task.questions("dev", 2)).parent
        PosixPath('runs')
    """
    folder = os.environ.get(FOLDER)
    if not folder or len({question.id for question in questions}) < len(questions):
        return None
    try:
        identity = identify(plan, questions)
    except ValueError:  # code of the user's own that can't be described: nothing can tell whether it is the same
        return None
    return Path(folder) / hash_of(identity.texts)[:32]
