"""A finished search, and the test of what it chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ...interventions.base import Intervention
from ...models.model import Model
from ...tasks.base import Task
from ..evaluate import evaluate_all
from ..results import Results
from .methods import Search


@dataclass(frozen=True)
class Tuning:
    """A finished search. Made by `tune`.

    Attributes:
        cells: one row a cell that was tried: `method`, `variant`, `dose`, `round`, `n`, `accuracy` with its Wilson
            interval `low`, `high`, `reasoned`, `tokens`, another objective and bounded outcomes, `chosen`.
        best: the chosen intervention of each method.
        on_edge: methods whose best relative strength still lies at an end of what was tried.
        baseline: the same measures of the baseline, which every search tries as a cell of relative strength 0.
        objective: the column of `cells` that was maximised: `"accuracy"`, `"reasoned"`, ...
        flat: whether no cell differed from the baseline beyond noise; the search then stopped after its first round.
        no_better: methods whose best cell is not above the baseline.
        questions: ids of the questions that were used.
        model, task, searches, settings: what was searched, and how.
    """

    cells: pd.DataFrame = field(repr=False)
    best: Mapping[str, Intervention]
    on_edge: tuple[str, ...]
    baseline: Mapping[str, Any]
    objective: str
    flat: bool
    no_better: tuple[str, ...]
    questions: tuple[str, ...] = field(repr=False)
    model: Model = field(repr=False)
    task: Task = field(repr=False)
    searches: tuple[Search, ...] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)

    def confirm(
        self,
        others: Sequence[Intervention] = (),
        *,
        n: int | None = 200,
        split: str = "test",
        seed: int = 0,
        controls: int = 40,
        out: str | Path | None = None,
        progress: bool = True,
    ) -> Results:
        """Run each method's chosen point on questions that the search never saw. Do it once, when everything is chosen.

        Args:
            others: what else to run beside them: prompts, response prefills.
            n, split, seed, out, progress: as in `kv.evaluate`.
            controls: random controls of each chosen point; 0: none.

        Raises:
            ValueError: some of the questions were used in the search, or a chosen point that has no random controls.
            KeyboardInterrupt: the run was interrupted; with `out`, it goes on there when it is called again.
        """
        asked = self.task.questions(split, n, seed)
        check_disjoint(self.questions, [q.id for q in asked])
        drawn = [c for s in self.searches if controls for c in s.controls(self.best[s.name], controls, seed)]
        methods = [*others, *self.best.values(), *drawn]
        return evaluate_all(
            self.model, self.task, methods, n=n, split=split, seed=seed, out=out, progress=progress, **self.settings
        )


def check_disjoint(tuned: Sequence[str], tested: Sequence[str]) -> None:
    """Refuse questions that were used both to choose and to test.

    Args:
        tuned, tested: ids of questions.

    Raises:
        ValueError: they have questions in common.

    Example:
        >>> check_disjoint(["a", "b"], ["c"])
    """
    both = sorted(set(tuned) & set(tested))
    if both:
        raise ValueError(
            f"{len(both)} questions were used in tuning and are among the test questions ({both[0]!r}, ...); test on"
            " another split."
        )
