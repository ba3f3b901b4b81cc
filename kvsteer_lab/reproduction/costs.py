"""What a chapter will cost on a model, before it starts: how much it reads and writes, times what that was measured to
take.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..generation.generate import generate
from ..interventions.base import Nothing
from ..interventions.cache import CacheSteering
from ..models.model import Model
from ..tasks.base import Task
from ..vectors.extraction import extract
from ..vectors.pairs import ContrastiveSet
from .profile import Profile, Size
from .sizing import Units

_ASKED, _TOKENS = 8, 8


@dataclass(frozen=True)
class Speed:
    """Seconds that this machine takes, now.

    Attributes:
        prompt: to read one prompt with examples.
        token: to write one token of one reply, in a batch.
    """

    prompt: float
    token: float


@dataclass(frozen=True)
class Workload:
    """How much a chapter computes.

    Attributes:
        prompts: with examples, to be read.
        replies: to be written.
    """

    prompts: int
    replies: int

    def minutes(self, speed: Speed, new_tokens: int) -> float:
        """How long it takes, in minutes, if no reply ends early."""
        return (self.prompts * speed.prompt + self.replies * new_tokens * speed.token) / 60


def measure(model: Model, task: Task, profile: Profile, size: Size) -> tuple[Units, Speed]:
    """What turns relative strengths into coefficients on this model, and how fast it is here: from vectors of the
    profile's first style and a few short replies.

    Args:
        model: from `kv.load`.
        task: whose questions are read.
        profile: gives style, pairs and shots.
        size: of the profile.
    """
    own = profile.sizes(size)
    pairs = ContrastiveSet.few_shot(
        task, model.tokenizer, style=profile.styles[0], n=own.pairs, shots=own.shots, seed=0
    )
    began = time.perf_counter()
    vectors = extract(model, pairs, progress=False)
    prompt = (time.perf_counter() - began) / (2 * own.pairs)
    chats = [task.chat(question) for question in task.questions("dev", _ASKED, 0)]
    doses = CacheSteering(vectors, ck=1, cv=1).unit_doses(model, chats)
    began = time.perf_counter()
    generate(model, chats, [Nothing()], generation={"max_new_tokens": _TOKENS}, progress=False)
    token = (time.perf_counter() - began) / (len(chats) * _TOKENS)
    return Units(float(doses["keys"]), float(doses["values"]), model.n_layers), Speed(prompt, token)


def workload(number: str, values: Mapping[str, Any], n_layers: int, heads: int, kv_heads: int) -> Workload:
    """About what a chapter reads and writes; a search that goes on beyond its first round is not foreseen.

    Args:
        number: of the chapter.
        values: of its parameters.
        n_layers, heads, kv_heads: of the model.

    >>> workload("00", dict(PAIRS=8, N_TEST=8, CONTROLS=2), 30, 9, 3)
    Workload(prompts=16, replies=62)
    """

    def of(name: str, default: int = 0) -> int:
        value = values.get(name, default)
        return len(value) if isinstance(value, list | tuple) else int(value)

    pairs, dev, test, few = 2 * of("PAIRS"), of("N_DEV"), of("N_TEST"), of("N_GRID") or of("N")
    each = 1 + of("CONTROLS")  # a steering and its random vectors
    layers = -(-n_layers // max(1, of("EVERY", 1)))
    by_chapter: dict[str, tuple[int, int]] = {
        "00": (pairs, 6 + test * (4 + each)),
        "02": (4 * of("MORE_PAIRS"), 0),
        "03": (pairs, 14 + dev * (of("COEFFICIENTS") * each + 3 + layers + kv_heads)),
        "04": (pairs, dev * (2 * of("CELLS") + 5) + test * (7 + 2 * each) + 240),
        "05": (pairs, dev * each * (12 * layers + (2 + layers) * kv_heads) + test * (3 + each)),
        "06": (10 * pairs, dev * 34 + of("N_CONTROLLED") * 5 * each),
        "07": (
            2 * pairs + 4 * of("SEEDS") * (sum(values.get("EXTRACTED", [])) + 10 * of("EXAMPLES")),
            few * of("CKS") * of("CVS")
            + 4 * dev * of("DOSES") * each
            + few * each * (16 + 2 * of("SEEDS") * 4 + 3 * of("TEMPERATURES") + 8)
            + 18 * test * each,
        ),
        "08": (
            2 * pairs,
            dev * (6 * of("CELLS") + 20) + test * (2 + 3 * each) + of("N_CURVE") * of("DOSES") * 3 * each,
        ),
        "09a": (pairs, few * (2 * heads * n_layers // 3 + 6 * n_layers + each)),
        "09b": (pairs, few * each * n_layers),
        "09c": (pairs, few * 2 * heads * n_layers // 3),
        "11": (2 * pairs, 10 + dev * 2 * of("CVS")),
        "12": (
            pairs + 40 * sum(values.get("NUMBERS", [])) + 24 * of("DRAWS") + 96 * of("PLANTED"),
            dev * (20 * (of("LAYERS") + 2) * of("NUMBERS") + 48),
        ),
        "13": (pairs, few * of("TURNS") * 8 * each + 4 * few),
    }
    prompts, replies = by_chapter.get(number, (0, 0))
    return Workload(prompts, replies)
