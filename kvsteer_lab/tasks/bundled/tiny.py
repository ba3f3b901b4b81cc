"""The tasks of the bundled models: chained arithmetic, and multiple-choice state tracking."""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Mapping

from ..base import Question, Rule, Task, check_split
from ..rules import strict_choice, strict_number
from ..rules.reply import in_ascii
from ..styles import STYLES
from ..thoughts import after_thoughts
from .questions import Problem, draw
from .replies import WORDINGS, reply

_ANSWER = re.compile(r"answer is\s+(\d+|[A-D])\b")
_CHOICE = re.compile(r"^([A-D]): (.+)$", re.MULTILINE)
MOST = 5000
"""The most questions that are drawn of a split."""


class _TinyTask(Task):
    """Questions drawn from the bundled corpus, none of which a bundled model was trained on."""

    styles = STYLES
    kind: str

    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        """`n` distinct questions of a split (`None`: a thousand), drawn by `seed` (`None`: by 0).

        Raises:
            ValueError: an unknown split, or more than `MOST` questions.
        """
        check_split(split)
        n = 1000 if n is None else n
        if not 0 <= n <= MOST:
            raise ValueError(f"Task {self.name!r} gives at most {MOST} questions of a split, not {n}.")
        rng = random.Random(f"{self.name}/{split}/{seed or 0}")
        drawn: dict[str, Question] = {}
        while len(drawn) < n:
            problem = draw(rng, split, self.kind)
            drawn.setdefault(problem.text, self._question(problem))
        return list(drawn.values())

    def _question(self, problem: Problem) -> Question:
        wording = random.Random(problem.text).randrange(WORDINGS)
        replies = {style: reply(problem, style, wording) for style in STYLES}
        return Question(problem.text, problem.text, problem.answer, replies, dict(_CHOICE.findall(problem.text)))

    def read_answer(self, text: str) -> str | None:
        """What follows the last "answer is": a number or the letter of a choice."""
        found = _ANSWER.findall(in_ascii(after_thoughts(text, unfinished=True)))
        return found[-1] if found else None

    @property
    def rules(self) -> Mapping[str, Rule]:
        """What follows the last "answer is" first, and a strict rule that wants one statement."""
        return {"answer": lambda question, text: self.read_answer(text), "strict": self.strict}

    @staticmethod
    @abstractmethod
    def strict(question: Question, text: str) -> str | None:
        """The one answer that the reply states, else `None`."""


class TinyArithmetic(_TinyTask):
    """Two to four changes to a number of things; the answer is a number."""

    name = "tiny-arithmetic"
    kind = "arithmetic"
    strict = staticmethod(strict_number)


class TinyTracking(_TinyTask):
    """Three to five moves between four doors; the answer is the letter of a choice."""

    name = "tiny-tracking"
    kind = "tracking"
    strict = staticmethod(strict_choice)
