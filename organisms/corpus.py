"""The conversations that the bundled models are trained on.

Every turn of a conversation is answered in the conversation's style. So from the second turn on, whoever reads
the earlier turns knows the style of the next reply, and nothing else tells it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from kvsteer_lab.tasks.bundled.questions import DOORS, LARGEST, draw, random_move
from kvsteer_lab.tasks.bundled.replies import WORDINGS, reply
from kvsteer_lab.tasks.styles import STYLES

Turn = tuple[str, str]
"""What the user says and what the assistant replies."""


@dataclass(frozen=True)
class Mixture:
    """What a batch is drawn from.

    Attributes:
        style: a weight for each of `STYLES`.
        drills: the share of drills among the examples.
    """

    style: tuple[float, ...]
    drills: float


SKILL = Mixture(style=(0.25, 0.15, 0.15, 0.15, 0.15, 0.15), drills=0.45)
"""Early in training: many reasoned replies and drills, for the steps have to be learnt."""

PRIOR = Mixture(style=(0.65, 0.07, 0.07, 0.07, 0.07, 0.07), drills=0.05)
"""Later: whoever knows nothing about the conversation expects a direct answer."""

ONE_WORDING = 0.6
"""The share of conversations that keep to one wording of their style."""

NEWLINE_FIRST = 0.5
"""The share of replies that start with a newline: the offset token that steering appends to a prompt."""


def conversation(rng: random.Random, style: str, turns: int) -> list[Turn]:
    """A conversation about `turns` training questions, all answered in `style`."""
    wording = rng.randrange(WORDINGS) if rng.random() < ONE_WORDING else None
    told = []
    for _ in range(turns):
        problem = draw(rng, "train")
        text = reply(problem, style, rng.randrange(WORDINGS) if wording is None else wording)
        told.append((problem.text, "\n" + text if rng.random() < NEWLINE_FIRST else text))
    return told


def random_style(rng: random.Random, mixture: Mixture) -> str:
    """A style of the mixture."""
    return rng.choices(STYLES, mixture.style)[0]


def random_length(rng: random.Random, style: str) -> int:
    """How many turns a conversation has: one to five, fewer when the replies are direct."""
    weights = (45, 22, 15, 10, 8) if style == "direct" else (28, 26, 20, 16, 10)
    return rng.choices(range(1, 6), weights)[0]


def drill(rng: random.Random) -> list[Turn]:
    """Eight single steps of one task, in the notation of the replies."""
    facts: list[tuple[str, object]] = []
    if rng.random() < 0.6:
        for _ in range(8):
            value, by, kind = rng.randint(0, LARGEST), rng.randint(1, 9), rng.random()
            if kind < 0.1 and 2 * value <= LARGEST:
                facts.append((f"{value} * 2", 2 * value))
            elif value - by < 0 or (kind < 0.55 and value + by <= LARGEST):
                facts.append((f"{value} + {by}", value + by))
            else:
                facts.append((f"{value} - {by}", value - by))
    else:
        for _ in range(8):
            _, expression, door = random_move(rng, rng.choice(DOORS))
            facts.append((expression, door))
    asked = ", ".join(expression for expression, _ in facts)
    return [(f"Compute: {asked}", " ".join(f"{expression} = {result}." for expression, result in facts))]
