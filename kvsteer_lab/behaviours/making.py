"""Behaviours of one's own, from instructions, questions and a function."""

from __future__ import annotations

from collections.abc import Sequence

from ..vectors.contrasts import as_texts, fill, sides
from .behaviour import Behaviour, BehaviourCard, Score
from .questions import in_splits


def make(
    name: str,
    positive: str | Sequence[str],
    negative: str | Sequence[str],
    questions: str | Sequence[str],
    score: Score,
    *,
    title: str | None = None,
    against: str = "plain",
    template: str | None = None,
    openings: tuple[Sequence[str], Sequence[str]] | None = None,
    rubric: str = "",
    card: BehaviourCard | None = None,
    scorer: str = "",
) -> Behaviour:
    """A behaviour of your own: instructions, questions and a function.

    Args:
        name: by which labels call it.
        positive, negative: system messages that ask for either side, pair by pair; personas where there is a template.
        questions: what is asked; divided 30 : 30 : 40 into extraction, dev and test by a hash of the question.
        score: a function of the reply: true or false, or a number above 0 where the reply shows the behaviour.
        title: in words, as in "replies in French"; `None`: made from the name.
        against: the name of the other side.
        template: with `{persona}` in it.
        openings: how replies of the two sides begin, pair by pair.
        rubric: for a judge.
        card: licence and source; `None`: "your own".
        scorer: the function in words; `None`: the first line of its docstring.

    Returns:
        The behaviour.

    Raises:
        ValueError: unequal sides, no questions, something that isn't a function.

    Warns:
        UserWarning: a question that is listed twice; it is used once.

    >>> asked = [f"What is {i} + {i}?" for i in range(9)]
    >>> loud = make("loud", "SHOUT.", "Whisper.", asked, str.isupper)
    >>> sum(map(len, loud.questions.values())), loud.score("FOUR")
    (9, True)
    """
    if not callable(score):
        raise ValueError(f"score={score!r} isn't a function; pass one from a reply to true or false, or to a number.")
    both = sides(positive, negative, "instruction")
    if template is not None:
        both = ([fill(template, who) for who in both[0]], [fill(template, who) for who in both[1]])
    begun = () if openings is None else tuple(zip(*sides(*openings, "opening"), strict=True))
    said = scorer or next(iter((getattr(score, "__doc__", None) or "").strip().splitlines()), "")
    return Behaviour(
        name,
        title or f"is {name}",
        against,
        in_splits(as_texts(questions, "question")),
        tuple(both[0]),
        tuple(both[1]),
        score,
        card or BehaviourCard("your own", "your own", said),
        openings=begun,
        rubric=rubric,
    )
