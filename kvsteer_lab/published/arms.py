"""Runs as arms of an experiment: what is compared with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from .scored import Scored


@dataclass(frozen=True)
class Arm:
    """One configuration in one cell: a single run, or the sampled runs that differ in their seed alone.

    Attributes:
        runs: the files, in the order of their names.
        label: what was varied, with a number where several runs share it.
        same_as: the file of the same cell and group whose generations these are, letter for letter; `None` if they are
            its own.
    """

    runs: tuple[Scored, ...]
    label: str
    same_as: str | None = None
    answers: pd.DataFrame = field(repr=False, default_factory=pd.DataFrame)

    @property
    def kind(self) -> str:
        return self.runs[0].run.kind

    @property
    def group(self) -> str:
        return self.runs[0].run.group

    @property
    def cell(self) -> tuple[str, ...]:
        return self.runs[0].run.cell

    @property
    def rule(self) -> str:
        """The rule that the paper reports for the task."""
        return self.runs[0].rules[0]

    def by_question(self, column: str) -> pd.Series:
        """The mean of a column over the replies to each question, by the question's id."""
        return self.answers.groupby("question", sort=False)[column].mean()


def arms(scored: Sequence[Scored]) -> list[Arm]:
    """The arms of all runs that can be scored, in the order of their files.

    Sampled runs of one configuration are pooled, if they differ in their seed. Greedy runs are not: each is an arm of
    its own, and says if its generations are those of an earlier file.
    """
    together: dict[tuple[object, ...], list[Scored]] = {}
    for number, one in enumerate(scored):
        if one.rules:
            run = one.run
            apart = "sampled" if run.sampled else str(number)
            together.setdefault((run.cell, run.kind, run.group, run.setting, run.style, one.rules, apart), []).append(
                one
            )
    found: list[Arm] = []
    first: dict[tuple[object, ...], str] = {}
    taken: dict[tuple[object, ...], int] = {}
    for key, runs in together.items():
        distinct = list({one.fingerprint: one for one in reversed(runs)}.values())[::-1]
        number = taken[key[:-1]] = taken.get(key[:-1], 0) + 1
        label = runs[0].run.setting + (f" #{number}" if number > 1 else "")
        earlier = first.setdefault((key[0], runs[0].run.group, distinct[0].fingerprint), runs[0].run.file)
        answers = pd.concat([one.answers for one in distinct], ignore_index=True)
        found.append(Arm(tuple(runs), label.strip(), None if earlier == runs[0].run.file else earlier, answers))
    return found


def reference(arm: Arm, kind: str, among: Sequence[Arm]) -> Arm | None:
    """The arm of a kind ("baseline" or "CoT") in the same cell; the first one, where there are several."""
    return next(
        (other for other in among if other.kind == kind and other.cell == arm.cell and other.group != "style"), None
    )
