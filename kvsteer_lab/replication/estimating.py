"""What a replication will cost, told before it starts: counted replies and tokens, at a speed measured on the spot."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..generation.generate import generate_all
from ..models.model import Model
from ..tasks.base import Chat, Task
from ..vectors.pairs import ContrastiveSet
from .methods import SCOPES
from .sizes import Sizes
from .sources import STYLE

_LENGTH = 0.6
"""The mean length of a reply, as a share of the limit, that is reckoned with."""
_ARMS = 13
"""Methods that are compared with the cache in use."""
_ROWS = 32
"""Replies that the speed is measured on."""


@dataclass(frozen=True)
class CostEstimate:
    """What one task will cost.

    Attributes:
        task: its name.
        prompts: prompts to extract from, both sides, for the cache and for the residual stream.
        dev: replies on development questions.
        test: replies on test questions, with the cache.
        anew: replies that compute every token anew.
        limit: tokens at most a reply.
        minutes: of one processor core, about; what is done already is counted, too.
    """

    task: str
    prompts: int
    dev: int
    test: int
    anew: int
    limit: int
    minutes: float

    def __str__(self) -> str:
        return (
            f"{self.task}: {self.prompts} prompts to extract from; replies of at most {self.limit} tokens: {self.dev:,}"
            f" to tune on, {self.test:,} to test on, {self.anew} that compute every token anew; about"
            f" {self.minutes:.0f} minutes of one core in all"
        )


def estimate_cost(model: Model, task: Task, sizes: Sizes, seed: int) -> CostEstimate:
    """Count what has to be done, and time 32 short replies to turn it into minutes.

    Args:
        model, task: who is asked what.
        sizes: of the replication.
        seed: of the pairs.

    Returns:
        The estimate; replies are taken to be 0.6 of the limit long, and a token of a prompt to cost half of a new one.
    """
    chats = [task.chat(question) for question in task.questions("dev", 4, seed)]
    second = _seconds_a_token(model, chats)
    pair = ContrastiveSet.few_shot(task, model.tokenizer, style=STYLE, n=1, shots=sizes.shots, seed=seed)
    prompt = sum(len(model.tokenizer(text).input_ids) for side in pair for text in side)
    asked = len(model.encode(chats[0]))
    available = len(task.questions("test"))
    count = {name: _size(sizes, name, available) for name in ("test", "control_test", "uncached_test")}
    limit = sizes.limit(task.name)
    reply = _LENGTH * limit * (1.5 if task.closing else 1.0)  # closing words read the reply once more
    dev = (2 + len(SCOPES)) * sizes.cells * sizes.dev
    test = _ARMS * count["test"] + 3 * sizes.controls * count["control_test"]
    anew = _LENGTH * limit * (asked + _LENGTH * limit / 2) / 2
    divergent = min(sizes.measured, count["test"]) * (_ARMS + 3 * sizes.controls) * 32
    tokens = sizes.pairs * prompt + (dev + test) * reply + count["uncached_test"] * anew + divergent
    return CostEstimate(task.name, 4 * sizes.pairs, dev, test, count["uncached_test"], limit, tokens * second / 60)


def _seconds_a_token(model: Model, chats: list[Chat]) -> float:
    """Processor seconds that a new token takes in a batch."""
    spent = []
    for new in (2, 10):
        start = time.process_time()
        generate_all(
            model,
            (chats * _ROWS)[:_ROWS],
            generation={"max_new_tokens": new, "min_new_tokens": new},
            batch_size=_ROWS,
        )
        spent.append(time.process_time() - start)
    return max(spent[1] - spent[0], 1e-6) / (_ROWS * 8)


def _size(sizes: Sizes, name: str, available: int) -> int:
    return sum(end - start for start, end in sizes.blocks(name, available))
