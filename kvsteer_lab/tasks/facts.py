"""Find the right one of several facts: a question that one line of the prompt answers. Written for this library."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from .base import Question, Task, check_split, split_of

THINGS = (
    "key ring coin map letter book lamp pen cup hat ball watch knife rope bell shoe box drum flag kite bag brush plate"
    " spoon candle ticket ribbon mirror basket button"
).split()
COLOURS = "red blue green yellow white black brown pink purple orange grey silver gold".split()
MOST = 5000
"""The most questions that are drawn of a split."""

_FACT = re.compile(r"^The (\w+) is (\w+)\.$", re.MULTILINE)
_ASKED = re.compile(r"^What colour is the (\w+)\?$", re.MULTILINE)


class FactFinding(Task):
    """k lines that say which colour a thing has, all things and all colours different, and a question about one thing.
    By chance one question in k is answered right. Not a benchmark: it is made to have an effect measured on it, and
    `kv.tasks.get` doesn't know it.

    Args:
        k: how many facts, 2 to 13.

    Raises:
        ValueError: another number.

    >>> task = FactFinding(3)
    >>> question = task.questions("dev", 1)[0]
    >>> print(question.text)
    Here are some facts.
    The brush is silver.
    The watch is green.
    The lamp is yellow.
    What colour is the watch?
    >>> question.answer, task.opening(question), task.right_one(question)
    ('green', 'The watch is', 1)
    """

    styles = ("direct",)
    max_new_tokens = 12

    def __init__(self, k: int = 4) -> None:
        if not 2 <= k <= len(COLOURS):
            raise ValueError(f"A question has 2 to {len(COLOURS)} facts, not {k}; there are no more colours.")
        self.k, self.name = k, f"fact-finding-{k}"

    def questions(self, split: str, n: int | None = None, seed: int | None = None) -> list[Question]:
        """`n` distinct questions of a split (`None`: a hundred), drawn by `seed` (`None`: by 0). Each place of the
        right fact is as likely as any other; a hash of the text tells the splits apart.

        Raises:
            ValueError: an unknown split, or more than `MOST` questions.
        """
        check_split(split)
        n = 100 if n is None else n
        if not 0 <= n <= MOST:
            raise ValueError(f"Task {self.name!r} gives at most {MOST} questions of a split, not {n}.")
        rng = random.Random(f"{self.name}/{split}/{seed or 0}")
        drawn: dict[str, Question] = {}
        while len(drawn) < n:
            things, colours = rng.sample(THINGS, self.k), rng.sample(COLOURS, self.k)
            at = rng.randrange(self.k)
            facts = [f"The {thing} is {colour}." for thing, colour in zip(things, colours, strict=True)]
            text = "\n".join(["Here are some facts.", *facts, f"What colour is the {things[at]}?"])
            if split_of(text) == split:
                drawn.setdefault(text, Question(text, text, colours[at], {"direct": facts[at]}))
        return list(drawn.values())

    def read_answer(self, text: str) -> str | None:
        """The first colour that the reply names."""
        found = re.search(rf"\b({'|'.join(COLOURS)})\b", text.lower())
        return None if found is None else found[0]

    def answers(self, question: Question) -> Sequence[str]:
        """What each fact would answer, in their order."""
        return [colour for _, colour in _FACT.findall(question.text)]

    def opening(self, question: Question) -> str:
        """The words of a reply that the answer follows."""
        return f"The {_ASKED.findall(question.text)[0]} is"

    def right_one(self, question: Question) -> int:
        """The number of the fact that answers the question."""
        return self.answers(question).index(question.answer)
