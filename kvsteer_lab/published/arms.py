"""Arms of the comparison: single runs, sampled runs pooled over their seeds, and the arm that each is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

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
        """What was done, one of `runs.KINDS`."""
        return self.runs[0].run.kind

    @property
    def group(self) -> str:
        """The family of comparisons; see `ReleasedRun.group`."""
        return self.runs[0].run.group

    @property
    def cell(self) -> tuple[str, ...]:
        """What it shares with the arms that it is compared with."""
        return self.runs[0].run.cell

    @property
    def rule(self) -> str:
        """The rule that the paper reports for the task."""
        return self.runs[0].rules[0]

    @property
    def max_new_tokens(self) -> int | None:
        """The limit of a reply's length; `None` if the files do not tell."""
        return self.runs[0].run.max_new_tokens

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of sampling, where the replies were sampled."""
        return tuple(sorted({one.run.seed for one in self.runs if one.run.seed is not None}))

    @property
    def accuracy(self) -> float:
        """By the paper's main rule, each question counted once."""
        return float(self.by_question(f"by_{self.rule}").mean())

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
            alike = (run.cell, run.kind, run.group, run.setting, run.style, one.rules, run.max_new_tokens, apart)
            together.setdefault(alike, []).append(one)
    found: list[Arm] = []
    first: dict[tuple[object, ...], str] = {}
    taken: dict[tuple[object, ...], int] = {}
    for key, runs in together.items():
        distinct = list({one.fingerprint: one for one in reversed(runs)}.values())[::-1]
        number = taken[key[:-2]] = taken.get(key[:-2], 0) + 1
        label = runs[0].run.setting + (f" #{number}" if number > 1 else "")
        earlier = first.setdefault((key[0], runs[0].run.group, distinct[0].fingerprint), runs[0].run.file)
        answers = pd.concat([one.answers for one in distinct], ignore_index=True)
        found.append(Arm(tuple(runs), label.strip(), None if earlier == runs[0].run.file else earlier, answers))
    return found


def reference(arm: Arm, kind: str, among: Sequence[Arm]) -> Arm | None:
    """The arm that another one is compared with, in the same cell.

    Args:
        arm: what is compared.
        kind: "baseline" or "CoT": the first one with the same limit of new tokens, else the one whose limit is
            nearest. "activation": the most accurate activation steering with the same prompt.
        among: all arms.

    Returns:
        The arm, or `None` if there is none.
    """
    if kind == "activation":
        return max(_rivals(arm, among), key=lambda other: other.accuracy, default=None)
    return min(
        (other for other in _in_cell(arm, among) if other.kind == kind), key=partial(_limit_apart, arm), default=None
    )


def _rivals(arm: Arm, among: Sequence[Arm]) -> list[Arm]:
    """The activation steerings, with the same prompt, that a steered arm is compared with."""
    return [other for other in _in_cell(arm, among) if other.kind == rival_of(arm) and other.group == "activation"]


def rivals(arm: Arm, among: Sequence[Arm]) -> int:
    """How many activation steerings `reference` chooses the most accurate one of."""
    return len(_rivals(arm, among))


def rival_of(arm: Arm) -> str:
    """The kind of activation steering that has the same prompt as a steered arm."""
    return "activation + CoT" if arm.kind.endswith("+ CoT") else "activation"


def _in_cell(arm: Arm, among: Sequence[Arm]) -> list[Arm]:
    return [other for other in among if other.cell == arm.cell and other.group != "style"]


def _limit_apart(arm: Arm, other: Arm) -> float:
    """How far two limits of new tokens are apart; unknown ones are alike."""
    limits = (arm.max_new_tokens, other.max_new_tokens)
    if limits[0] is None or limits[1] is None:
        return 0.0 if limits[0] == limits[1] else math.inf
    return float(abs(limits[0] - limits[1]))
