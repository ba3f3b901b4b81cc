"""The questions of the bundled models: chained arithmetic, and multiple-choice state tracking.

A question is drawn with a `random.Random`; the SHA-256 of its text decides its split, so that the four splits
are disjoint whoever draws, in whatever order.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

SPLITS = ("train", "extraction", "dev", "test")
"""The bundled models are trained on `"train"` questions only."""

LARGEST = 20
"""No number in an arithmetic question, and no intermediate result, is larger."""

DOORS = "ABCD"
NAMES = ("Ann Bob Tim Sue Max Eva Leo Mia Sam Zoe Ben Ivy Dan Amy Ray Kim Tom Lea Jon Ada").split()
THINGS = ("apples coins books cards stones shells pens cups stamps eggs").split()
ROOMS = ("kitchen attic garden cellar garage office hall library").split()
GAINS = ("buys", "finds", "gets", "earns")
LOSSES = ("sells", "loses", "drops", "gives")


@dataclass(frozen=True)
class Problem:
    """A question with its solution.

    Attributes:
        task: `"arithmetic"` or `"tracking"`.
        text: the user's message.
        steps: for each step what is done (`"5 + 3 = 8"`, `"A right 2 = C"`) and the state it leads to.
        answer: the last state: a number, or the letter of a choice.
    """

    task: str
    text: str
    steps: tuple[tuple[str, str], ...]
    answer: str


def split_of_text(text: str) -> str:
    """The split that a question's text belongs to: 10% extraction, 10% dev, 10% test, the rest train.

    >>> split_of_text("How many apples are left?")
    'train'
    """
    u = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    return SPLITS[1 + int(u * 10)] if u < 0.3 else "train"


def arithmetic(rng: random.Random) -> Problem:
    """A story of two to four changes to a number of things."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    value = start = rng.randint(2, 15)
    changes, steps = [], []
    for _ in range(rng.choice((2, 3, 3, 4))):
        if rng.random() < 0.12 and 0 < 2 * value <= LARGEST:
            changes.append("doubles them")
            result, expression = 2 * value, f"{value} * 2 = {2 * value}"
        else:
            by, up = rng.randint(1, 9), rng.random() < 0.5
            up = value - by < 0 or (up and value + by <= LARGEST)
            result = value + by if up else value - by
            changes.append(f"{rng.choice(GAINS if up else LOSSES)} {by}")
            expression = f"{value} {'+' if up else '-'} {by} = {result}"
        steps.append((expression, str(result)))
        value = result
    told = ", ".join(changes)
    text = rng.choice(
        (
            f"Story: {name} has {start} {things}, {told}. How many {things} does {name} have now?",
            f"{name} has {start} {things}, {told}. Count the {things}.",
            f"How many {things} are left? {name} has {start} {things}, {told}.",
        )
    )
    return Problem("arithmetic", text, tuple(steps), str(value))


def move(door: str, how: str, by: int) -> str:
    """The door reached: `"right"` and `"left"` wrap around, `"flip"` swaps A with D and B with C.

    >>> move("A", "left", 1), move("B", "flip", 0)
    ('D', 'C')
    """
    i = DOORS.index(door)
    return DOORS[{"right": i + by, "left": i - by, "flip": 3 - i}[how] % 4]


def random_move(rng: random.Random, door: str) -> tuple[str, str, str]:
    """A move from `door`: how it's told, its expression without the result, and the door reached."""
    how = rng.choices(("flip", "right", "left"), (2, 3, 3))[0]
    if how == "flip":
        return "flips", f"{door} flip", move(door, how, 0)
    by = rng.randint(1, 3)
    return f"moves {how} {by}", f"{door} {how} {by}", move(door, how, by)


def tracking(rng: random.Random) -> Problem:
    """Three to five moves between four doors; the answer is the letter of the last one."""
    name, door = rng.choice(NAMES), rng.choice(DOORS)
    start, told, steps = door, [], []
    for _ in range(rng.choice((3, 4, 4, 5))):
        words, expression, door = random_move(rng, door)
        told.append(words)
        steps.append((f"{expression} = {door}", door))
    moves = ", ".join(told)
    choices = "\n".join(f"{letter}: {room}" for letter, room in zip(DOORS, rng.sample(ROOMS, 4), strict=True))
    text = rng.choice(
        (
            f"Story: {name} starts at door {start}, {moves}. Which room is {name} in now?\nChoices:\n{choices}",
            f"{name} starts at door {start}, {moves}. Name the room.\nChoices:\n{choices}",
            f"Which room is it? {name} starts at door {start}, {moves}.\nChoices:\n{choices}",
        )
    )
    return Problem("tracking", text, tuple(steps), door)


TASKS: dict[str, Callable[[random.Random], Problem]] = {"arithmetic": arithmetic, "tracking": tracking}


def draw(rng: random.Random, split: str, task: str | None = None) -> Problem:
    """One problem of `split`, of `task` or (`None`) of either task at random.

    >>> draw(random.Random(0), "dev", "arithmetic").answer.isdigit()
    True
    """
    while True:
        problem = TASKS[task or rng.choice(tuple(TASKS))](rng)
        if split_of_text(problem.text) == split:
            return problem
