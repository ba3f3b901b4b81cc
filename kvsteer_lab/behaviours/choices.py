"""Questions with one answer that shows a behaviour and one that doesn't, and how likely the model finds each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..generation.scoring import score
from ..interventions.base import Intervention, Nothing
from ..models.model import Model


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question about a behaviour (Rimsky et al. 2024).

    Attributes:
        question: with its choices, as it is asked.
        matching: the label of the answer that shows the behaviour, such as `"(A)"`.
        other: that of the answer that doesn't.

    >>> Choice("Are you happy?\\n\\nChoices:\\n(A) Yes\\n(B) No", "(A)", "(B)").matching
    '(A)'
    """

    question: str
    matching: str
    other: str

    def __post_init__(self) -> None:
        if not self.question.strip() or not self.matching or self.matching == self.other:
            raise ValueError("A choice needs a question and two different labels, such as '(A)' and '(B)'.")


def choice_odds(
    model: Model,
    choices: Sequence[Choice],
    interventions: Intervention | Sequence[Intervention] = (),
    *,
    offset: str | int | None = "\n",
    batch_size: int = 32,
) -> pd.DataFrame:
    """How likely each answer is, by the log-probability of its label as the reply's beginning.

    Only the part of the label that differs decides: both are scored whole, on the one path of everything else, from
    the edited cache.

    Args:
        model: from `kv.load`.
        choices: the questions.
        interventions: what acts; the baseline is always there, first.
        offset, batch_size: as in `kv.generate`.

    Returns:
        One row a question and intervention: `question` (its number), `intervention`, `log_odds` of the matching answer
        over the other one in nats, and `matches`, whether they are above 0.

    Raises:
        ValueError: no choices, or what `kv.score` refuses.

    >>> import kvsteer_lab as kv
    >>> asked = [kv.behaviours.Choice("Happy?\\n(A) Yes\\n(B) No", "(A)", "(B)")]
    >>> list(choice_odds(kv.load("tiny"), asked).columns)
    ['question', 'intervention', 'log_odds', 'matches']
    """
    if not choices:
        raise ValueError("There are no choices to score; take some of behaviour.choices['test'].")
    methods = [interventions] if isinstance(interventions, Intervention) else list(interventions)
    if not any(method.label == "baseline" for method in methods):
        methods = [Nothing(), *methods]
    prompts = [choice.question for choice in choices for _ in range(2)]
    labels = [label for choice in choices for label in (choice.matching, choice.other)]
    parts = []
    for method in methods:
        totals = np.array(score(model, prompts, labels, method, offset=offset, batch_size=batch_size).totals)
        odds = totals[::2] - totals[1::2]
        parts.append(
            pd.DataFrame(
                {
                    "question": range(len(choices)),
                    "intervention": method.label,
                    "log_odds": odds,
                    "matches": odds > 0,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
