"""Texts of several interventions on one prompt, what is known of each text, and how likely its tokens were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..._util.html import TextTable
from ...generation.outputs import Generation
from ...models.prompts import Prompt
from ...tasks.base import Question, Task
from ..state import Arm, ExplorerState


@dataclass(frozen=True)
class Asked:
    """What a state asks the model: a prompt, and the question it comes from if it isn't the user's own text."""

    prompt: Prompt
    task: Task | None = None
    question: Question | None = None


@dataclass(frozen=True)
class Likely:
    """A token that might come next: its text, its probability under the intervention and under the baseline, and its
    number in the vocabulary.
    """

    token: str
    probability: float
    baseline: float
    id: int = -1


@dataclass(frozen=True)
class Measured:
    """One text, token by token.

    Attributes:
        pieces: the text's parts, one a token; joined they are the text.
        logprobs: log-probability of each token under the intervention, in nats.
        change: the same minus the baseline's.
        kl: before each token, KL(intervention || baseline) of the next-token distributions, in nats.
        likely: before each token, the likeliest tokens under the intervention and under the baseline.
    """

    pieces: tuple[str, ...] = field(repr=False)
    logprobs: tuple[float, ...] = field(repr=False)
    change: tuple[float, ...] = field(repr=False)
    kl: tuple[float, ...] = field(repr=False)
    likely: tuple[tuple[Likely, ...], ...] = field(repr=False)

    def nats(self, first: int | None = None) -> float:
        """KL summed over the first tokens, or over all of them."""
        return sum(self.kl[:first])


@dataclass(frozen=True)
class Compared:
    """One arm of a comparison.

    Attributes:
        arm: its name.
        generation: the text.
        verdict: `style`, `reasoned`, `tokens`, `loop`, `repetition`, `cut`, and for a task's question `answer`, `gold`,
            `correct`.
        measured: the text read under this arm and under the baseline; of the baseline's own text, read under `reader`
            and under the baseline.
        reader: the arm that reads the baseline's text.
        others: of the random control, the texts under further random vectors.
    """

    arm: Arm
    generation: Generation
    verdict: Mapping[str, Any]
    measured: Measured | None = field(default=None, repr=False)
    reader: Arm | None = None
    others: tuple[Generation, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Comparison:
    """What one state gave.

    Attributes:
        state: the setting.
        asked: the prompt.
        arms: one entry an arm, in the state's order.
        warned: what the library warned of.
        prompt: the prompt's tokens as text, one a slot of the cache.
    """

    state: ExplorerState
    asked: Asked
    arms: tuple[Compared, ...]
    warned: tuple[str, ...] = ()
    prompt: tuple[str, ...] = field(default=(), repr=False)

    @property
    def texts(self) -> list[str]:
        """All texts, arm by arm, those under further random vectors after the control's own."""
        return [text.text for own in self.arms for text in (own.generation, *own.others)]

    def __getitem__(self, arm: str) -> Compared:
        return next(own for own in self.arms if own.arm == arm)

    def to_frame(self) -> pd.DataFrame:
        """One row an arm: `arm`, `text` (response prefill included), the verdict, and the nats of KL over the first
        tokens (`kl_1`, `kl_8`) and all.
        """
        rows = []
        for own in self.arms:
            nats = (
                {name: own.measured.nats(first) for name, first in (("kl_1", 1), ("kl_8", 8), ("kl_total", None))}
                if own.measured and not own.reader
                else {}
            )
            rows.append({"arm": own.arm, "text": own.generation.answer, **own.verdict, **nats})
        return TextTable(rows)

    def tokens(self) -> pd.DataFrame:
        """One row an arm and token: `arm`, `step` (from 1), `token`, `logprob`, `change`, `kl`. The baseline has none:
        nothing is changed there.
        """
        columns = ["arm", "step", "token", "logprob", "change", "kl"]
        rows = [
            (own.arm, step, *token)
            for own in self.arms
            if own.measured is not None and own.arm != "baseline"
            for step, token in enumerate(
                zip(own.measured.pieces, own.measured.logprobs, own.measured.change, own.measured.kl, strict=True), 1
            )
        ]
        return TextTable(rows, columns=columns)
