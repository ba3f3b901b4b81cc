"""A behaviour: contrastive data, questions in splits, and a score of replies, in one schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..evaluation.outcomes.judge import Endpoint, Judge
from ..evaluation.outcomes.outcome import SHARE, Outcome
from ..models.prompts import render, template_hash
from ..models.tokens import encode
from ..tasks.base import Question, Rule
from ..vectors.contrasts import opened, with_system
from ..vectors.pairs import ContrastiveSet
from .choices import Choice
from .prompting import SystemPrompt
from .questions import NOT_SHOWN, SHOWN, BehaviourTask

Score = Callable[[str], float | bool]
"""What is measured of a reply: true or false, or a number above 0 where it shows the behaviour; NaN: no telling."""
Kind = Literal["prompts", "openings", "shared openings", "choices"]
"""What pairs are made of; see `Behaviour.pairs`."""


@dataclass(frozen=True)
class BehaviourCard:
    """Where a behaviour's data come from.

    Attributes:
        licence: of the data.
        source: who wrote them, with the commit for fetched ones.
        scorer: how replies are scored, in a few words.
        sha256: of fetched files, by name.
        note: what else a reader should know.

    >>> BehaviourCard("MIT", "written for kvsteer_lab").licence
    'MIT'
    """

    licence: str
    source: str
    scorer: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Behaviour:
    """What a model does: its contrastive data, its questions in splits, its score. Made by `kv.behaviours.get` or
    `kv.behaviours.make`.

    Attributes:
        name: by which labels call it.
        title: in words, as in "replies in French".
        against: the name of the other side.
        questions: split -> questions; `"extraction"` for pairs, `"dev"` for choosing, `"test"` once.
        positive, negative: instructions that ask for either side, pair by pair.
        score: of a reply.
        rule: `"shown"` or `"not shown"` for a question and a reply.
        openings: how replies of the two sides begin, pair by pair.
        shared_openings: beginnings of replies that both sides share.
        choices: split -> multiple-choice questions.
        rubric: for a judge, one sentence that is true of a reply which shows the behaviour.
        card: licence and source.

    Example:
        >>> import kvsteer_lab as kv
        >>> french = kv.behaviours.get("french")
        >>> french.title, french.score("Je pense que le chat est ici.")
        ('replies in French', True)
        >>> french.outcome.unit
        'share'
    """

    name: str
    title: str
    against: str
    questions: Mapping[str, Sequence[Question]] = field(repr=False)
    positive: tuple[str, ...] = field(repr=False)
    negative: tuple[str, ...] = field(repr=False)
    score: Score = field(repr=False)
    card: BehaviourCard = field(repr=False)
    rule: Rule | None = field(default=None, repr=False)
    openings: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    shared_openings: tuple[str, ...] = field(default=(), repr=False)
    choices: Mapping[str, Sequence[Choice]] = field(default_factory=dict, repr=False)
    rubric: str = field(default="", repr=False)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of pairs that the data allow."""
        have = (
            bool(self.positive and self.questions.get("extraction")),
            bool(self.openings and self.questions.get("extraction")),
            bool(self.positive and self.shared_openings),
            bool(self.choices.get("extraction")),
        )
        return tuple(kind for kind, there in zip(get_args(Kind), have, strict=True) if there)

    @property
    def task(self) -> BehaviourTask:
        """The questions as a task: accuracy is the share of replies that show the behaviour."""

        def shows(question: Question, text: str) -> str | None:
            value = float(self.score(text))
            return None if math.isnan(value) else SHOWN if value > 0 else NOT_SHOWN

        return BehaviourTask(self.name, self.questions, self.rule or shows)

    @property
    def outcome(self) -> Outcome:
        """Whether a reply shows the behaviour, for `kv.evaluate(..., outcomes=[...])` on any questions."""

        def shows(question: Question, reply: str) -> float:
            value = float(self.score(str(reply)))
            return math.nan if math.isnan(value) else float(value > 0)

        return Outcome(self.name, shows, SHARE, self.title)

    @property
    def graded(self) -> Outcome:
        """The score itself, where it is more than true or false."""
        return Outcome(
            f"{self.name} score", lambda question, reply: float(self.score(str(reply))), "score", self.card.scorer
        )

    def system_prompt(self, number: int = 0, *, in_user_message: bool = False) -> SystemPrompt:
        """The instruction as an intervention, to stand beside steering.

        Args:
            number: which of the positive instructions.
            in_user_message: as in `SystemPrompt`.

        Raises:
            ValueError: a behaviour without instructions.
        """
        if not self.positive:
            raise ValueError(f"{self.name!r} is only measured; it has no instructions that ask for it.")
        return SystemPrompt(self.positive[number], f"system prompt {self.name}", in_user_message)

    def judge(self, endpoint: Endpoint) -> Judge:
        """A judge of this behaviour, where no exact score exists.

        Args:
            endpoint: where it is asked.
        """
        return Judge(endpoint, self.rubric or f"The reply {self.title}.", f"{self.name} judged")

    def pairs(self, tokenizer: Any, kind: Kind | None = None, *, n: int | None = None) -> ContrastiveSet:
        """Contrastive pairs from the extraction split; the vectors' card and label have the behaviour's name.

        Kinds: `"prompts"`, every question under every pair of instructions; `"openings"`, every question with a reply
        that begins in either way; `"shared openings"`, either instruction with a reply that begins in the same way
        (repeng); `"choices"`, a multiple-choice question and the letter of either answer (Rimsky et al. 2024).

        Args:
            tokenizer: the model's, with its chat template.
            kind: what they are made of; `None`: the first of `kinds`.
            n: how many, of all kinds of question alike; `None`: all.

        Returns:
            The pairs.

        Raises:
            ValueError: a kind that the behaviour has no data for, or fewer pairs than `n`.
        """
        if kind is None and not self.kinds:
            raise ValueError(f"{self.name!r} is only measured; it has no pairs to extract vectors from.")
        chosen = kind or self.kinds[0]
        if chosen not in self.kinds:
            raise ValueError(f"{self.name!r} has no pairs of kind {chosen!r}; it has: {', '.join(self.kinds)}.")
        positive, negative = zip(*_in_turn(self._texts(tokenizer, chosen), n, self.name), strict=True)
        recipe = dict(style=self.name, against=self.against, made=f"behaviour, {chosen}", licence=self.card.licence)
        last = tokenizer.decode(encode(tokenizer, positive[0])[-1:])
        return ContrastiveSet(positive, negative, recipe, template_hash(tokenizer), last)

    def _texts(self, tokenizer: Any, kind: Kind) -> list[list[tuple[str, str]]]:
        """Pairs of texts, one list a question or opening."""
        asked = [question.text for question in self.questions.get("extraction", ())]
        told = list(zip(self.positive, self.negative, strict=True))

        def told_to(instruction: str, question: str) -> str:
            return render(tokenizer, with_system(tokenizer, instruction, [{"role": "user", "content": question}]))

        def begun(question: str, text: str) -> str:
            return opened(tokenizer, question, text)

        if kind == "prompts":
            return [[(told_to(p, q), told_to(n, q)) for p, n in told] for q in asked]
        if kind == "openings":
            return [[(begun(q, p), begun(q, n)) for p, n in self.openings] for q in asked]
        if kind == "shared openings":
            return [[(begun(p, text), begun(n, text)) for p, n in told] for text in self.shared_openings]
        # Without the closing bracket: the vectors are read at the letter.
        return [
            [(begun(c.question, c.matching.rstrip(")")), begun(c.question, c.other.rstrip(")")))]
            for c in self.choices["extraction"]
        ]


def _in_turn(groups: Sequence[Sequence[tuple[str, str]]], n: int | None, name: str) -> list[tuple[str, str]]:
    """The first pair of every group, then the second of every group, and so on; `n` of them."""
    longest = max(map(len, groups))
    every = [group[i] for i in range(longest) for group in groups if i < len(group)]
    if n is not None and not 1 <= n <= len(every):
        raise ValueError(
            f"{name!r} has {len(every)} pairs of that kind, so n={n} can't be had; take 1 to {len(every)}."
        )
    return every if n is None else every[:n]
