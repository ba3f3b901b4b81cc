"""Test questions asked in blocks: each is a stored run of its own, with its divergences and its time beside it."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .._util.files import write_atomically
from .._util.json import read_json
from .._version import __version__
from ..evaluation.chunks import ask_in_chunks
from ..evaluation.plan import EvaluationPlan
from ..evaluation.results import Results
from ..evaluation.runs import Run
from ..generation.divergence import divergences
from ..interventions.base import Intervention, Nothing
from ..models.model import Model
from ..models.tokens import encode
from ..tasks.base import Question, Task

FIRST = (1, 8, 32)
"""Lengths in tokens over which the divergence from the baseline is summed."""


@dataclass(frozen=True)
class Block:
    """Some test questions under some methods.

    Attributes:
        folder: of the task's test; the block's run is in `folder/NAME`.
        name: the methods' group and the first question's number: "arms-000".
        methods: what is compared.
        questions: those of the block.
    """

    folder: Path
    name: str
    methods: tuple[Intervention, ...]
    questions: tuple[Question, ...]

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.folder / self.name

    @property
    def done(self) -> bool:
        """Whether all replies are there."""
        return (self.path / "config.json").is_file() and Run.load(self.path).complete

    def ask(self, model: Model, task: Task, limit: int, seed: int, batch_size: int) -> Run:
        """Generate the replies, unless they are there, and note what they cost.

        Args:
            model, task: who is asked what.
            limit: where replies are cut.
            seed: of the questions' order.
            batch_size: as in `kv.generate`.

        Raises:
            KeyboardInterrupt: Ctrl-C; the block is asked again when the same is done again.
        """
        plan = EvaluationPlan(
            model, task, self.methods, "\n", {"max_new_tokens": limit}, 1, seed, "steered", batch_size
        )
        settings = dict(
            model=model.name,
            dtype=str(model.dtype),
            task=task.name,
            rule=next(iter(task.rules)),
            split="test",
            n=len(self.questions),
            seed=seed,
            samples=1,
            version=__version__,
        )
        wall, cpu = time.perf_counter(), time.process_time()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run = ask_in_chunks(
                plan, self.questions, self.path, settings=settings, chunk_size=len(self.questions), progress=False
            )
        if any(str(warning.message).startswith("Interrupted") for warning in told):
            raise KeyboardInterrupt(f"stopped in {self.path}")
        if run.complete and not (place := self.folder / f"{self.name}.cost.json").is_file():
            rows = run.read()
            cost = dict(
                wall_s=time.perf_counter() - wall,
                cpu_s=time.process_time() - cpu,
                replies=len(rows),
                tokens=int(rows.tokens.sum()),
            )
            write_atomically(place, lambda file: file.write_text(json.dumps(cost)))
        return run

    def measure(self, model: Model, task: Task, replies: Sequence[str], batch_size: int) -> None:
        """Write KL(method || baseline) along the first tokens of the baseline's replies, unless it is there.

        Args:
            model, task: who is asked what.
            replies: the baseline's, one a question.
            batch_size: as in `kv.generate`.
        """
        place = self.folder / f"{self.name}.kl.parquet"
        steered = [method for method in self.methods if not isinstance(method, Nothing)]
        if place.is_file() or not steered:
            return
        given = [first_tokens(model, reply) for reply in replies]
        chats = [task.chat(question) for question in self.questions]
        found = divergences(model, chats, given, steered, Nothing(), batch_size=batch_size)
        parts = []
        for method, each in zip(steered, found, strict=True):
            table = each.summary(FIRST)[[f"kl_{n}" for n in FIRST]]
            table.insert(0, "question", [question.id for question in self.questions])
            table.insert(1, "intervention", method.label)
            parts.append(table)
        whole = pd.concat(parts, ignore_index=True)
        write_atomically(place, lambda file: whole.to_parquet(file, index=False))

    def rows(self) -> pd.DataFrame:
        """The replies with their divergences, where those were measured."""
        rows = Results.load(self.path).rows
        place = self.folder / f"{self.name}.kl.parquet"
        if place.is_file():
            return rows.merge(pd.read_parquet(place), on=["question", "intervention"], how="left")
        return rows.assign(**{f"kl_{n}": float("nan") for n in FIRST})

    def cost(self) -> dict[str, float]:
        """What it took: `wall_s`, `cpu_s`, `replies`, `tokens`; empty where it isn't known."""
        place = self.folder / f"{self.name}.cost.json"
        return read_json(place, what=str(place)) if place.is_file() else {}


def first_tokens(model: Model, reply: str, most: int = max(FIRST)) -> list[int]:
    """The first tokens of a reply, along which divergences are summed; of an empty one, the end token.

    Args:
        model: whose tokenizer counts.
        reply: the text.
        most: how many.
    """
    return encode(model.tokenizer, reply)[:most] or [int(model.tokenizer.eos_token_id)]
