"""Scoring of a run: its metrics recomputed by the paper's rules, and its answers read by this library's rules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..tasks import paper
from ..tasks import rules as answer_rules
from ..tasks.base import Question
from .runs import Answer, ReleasedRun

TOLERANCE = 1e-9
"""How far a recomputed metric may be from the file's own."""

PAPER: Mapping[str, Callable[[str, str], str | None]] = {
    "augmented_extract": lambda text, letters: paper.augmented_extract(text),
    "last_letter": paper.last_letter,
    "last_digit": lambda text, letters: paper.last_digit(text),
    "strict_match": lambda text, letters: paper.strict_match(text),
}
"""The paper's rules by the name of their metric: from a reply and the letters of a task to what is read."""

_UNREAD = ("[invalid]", "[incorrect]")
_CHOICE = re.compile(r"^[^\S\n]*([A-Z]|[1-9]): ?(.*)$", re.MULTILINE)
_MARK = re.compile(r"<\|[^|<>\n]{1,40}\|>|</s>")


@dataclass(frozen=True)
class Check:
    """A metric of a file, recomputed.

    Attributes:
        metric: its name.
        claimed: the file's own number; NaN if what stands there is not a number.
        rescored: the share of answers that are correct when read again; NaN if that can't be done.
        by: "rule", "stored" (from the verdicts in the file, where the reader was a language model or is unknown), or
            "nothing".
        changed: answers whose verdict by the rule is not the stored one.

    Examples:
        >>> import kvsteer_lab as kv
        >>> kv.published.Check("augmented_extract", claimed=0.5, rescored=0.5, by="rule").matches
        True
    """

    metric: str
    claimed: float
    rescored: float
    by: str
    changed: int = 0

    @property
    def matches(self) -> bool:
        return abs(self.claimed - self.rescored) <= TOLERANCE


def check_metrics(run: ReleasedRun) -> list[Check]:
    """Each metric of a run recomputed: by the paper's rule where there is one, else from the verdicts that the file
    stores.

    Args:
        run: from `read_release`.

    Returns:
        One check a metric.

    Examples:
        >>> import kvsteer_lab as kv
        >>> answer = kv.published.Answer("q1", "A", "So the correct choice is A.")
        >>> settings, metrics = {"model": "m", "task": "arc"}, {"augmented_extract": 1.0}
        >>> run = kv.published.ReleasedRun("plain.json", settings, metrics, (answer,))
        >>> [check.rescored for check in kv.published.check_metrics(run)]
        [1.0]
    """
    return [_check(run, name) for name in run.metrics]


def main_metric(run: ReleasedRun) -> str:
    """The metric that the paper reports: its main rule for letters or numbers, else the file's first."""
    return next((name for name in ("augmented_extract", "last_digit") if name in run.metrics), next(iter(run.metrics)))


def read(run: ReleasedRun, metric: str) -> list[str | None] | None:
    """What is read from each answer under a metric, by the paper's rule or as stored; `None` if neither exists for
    every answer.
    """
    if metric in PAPER:
        letters = "AB" if metric == "last_letter" and _has_two_choices(run) else paper.LETTERS
        return [PAPER[metric](answer.text, letters) for answer in run.answers]
    if any(metric not in answer.stored for answer in run.answers):
        return None
    return [_plain(answer.stored[metric]) for answer in run.answers]


def read_by_our_rules(run: ReleasedRun) -> dict[str, list[bool]]:
    """Whether each answer is correct by this library's rules: name -> verdicts. Empty for tasks that are neither choice
    nor number.
    """
    kind = answer_kind(run)
    if kind == "choice":
        rules = {"two_stage": answer_rules.two_stage, "strict": answer_rules.strict_choice}
    elif kind == "number":
        rules = {"last_number": answer_rules.last_number, "strict": answer_rules.strict_number}
    else:
        return {}
    asked = [(_question(answer, kind), _MARK.sub("", answer.text)) for answer in run.answers]
    return {name: [rule(question, text) == question.answer for question, text in asked] for name, rule in rules.items()}


def answer_kind(run: ReleasedRun) -> str:
    """ "choice", "number" or "other": what the answers of a run's task are."""
    if {"augmented_extract", "last_letter"} & run.metrics.keys() or any(
        paper.CLOSING in answer.text for answer in run.answers
    ):
        return "choice"
    return "number" if all(answer_rules.is_number(answer.target) for answer in run.answers) else "other"


def choices_of(prompt: str) -> dict[str, str]:
    """The choices of the last question in a prompt, label -> text: lines "A: ...", "B: ..." or "1: ...", in order.
    Empty if there are none.
    """
    lines = _CHOICE.findall(_MARK.sub("\n", prompt))
    starts = [i for i, (label, _) in enumerate(lines) if label in "A1"]
    found: dict[str, str] = {}
    for label, text in lines[starts[-1] :] if starts else []:
        if found and ord(label) != ord(max(found)) + 1:
            break
        found[label] = text.strip()
    return found


def reply_of(answer: Answer) -> str:
    """The reply itself: without the closing words, what follows them, and end marks."""
    body, found, _ = answer.text.rpartition(paper.CLOSING)
    return _MARK.sub("", body if found else answer.text).strip()


def _check(run: ReleasedRun, metric: str) -> Check:
    value = run.metrics[metric]
    claimed = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    found = read(run, metric)
    if found is None:
        return Check(metric, claimed, math.nan, "nothing")
    right = sum(verdict == answer.target for verdict, answer in zip(found, run.answers, strict=True))
    stored = [answer.stored.get(metric, verdict) for verdict, answer in zip(found, run.answers, strict=True)]
    changed = sum(_plain(there) != verdict for there, verdict in zip(stored, found, strict=True))
    return Check(metric, claimed, right / len(run.answers), "rule" if metric in PAPER else "stored", changed)


def _plain(stored: object) -> str | None:
    return None if stored is None or stored in _UNREAD else str(stored)


def _has_two_choices(run: ReleasedRun) -> bool:
    """Whether the paper's second rule looked for A and B alone: by the prompts (or the task's name), unless the file
    stores another letter.
    """
    if any(answer.stored.get("last_letter") in ("C", "D", "E") for answer in run.answers):
        return False
    return run.task.startswith("piqa") or all(list(choices_of(answer.prompt)) == ["A", "B"] for answer in run.answers)


def _question(answer: Answer, kind: str) -> Question:
    if kind == "number":
        return Question(answer.id, "", answer_rules.plain(answer.target))
    choices = choices_of(answer.prompt)
    return Question(answer.id, "", answer.target, choices=choices or dict.fromkeys(paper.LETTERS, ""))
