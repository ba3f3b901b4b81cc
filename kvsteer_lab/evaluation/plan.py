"""Everything that is fixed in an evaluation except its questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from transformers import GenerationConfig

from ..generation.backend import Backend
from ..generation.elicitation import Choice, elicit
from ..generation.generate import Job
from ..generation.outputs import Generation, Generations
from ..generation.settings import resolve
from ..interventions.base import Intervention
from ..models.model import Model
from ..models.tokens import encode, offset_token
from ..stats.texts import repetition
from ..tasks.base import Question, Task
from .readings import read_reply
from .results import COLUMNS

SecondStage = Literal["steered", "unsteered"]
SECOND_STAGE_TOKENS = 8
"""How far the closing words are continued."""


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything that is fixed in an evaluation except its questions.

    Attributes:
        model, task, methods: what is asked of whom; the baselines are among the methods.
        offset, generation, samples, seed, second_stage, batch_size, backend: as in `evaluate`.
    """

    model: Model
    task: Task
    methods: tuple[Intervention, ...]
    offset: str | int
    generation: Mapping[str, Any] | GenerationConfig | None
    samples: int
    seed: int
    second_stage: SecondStage
    batch_size: int
    backend: Backend | None = None

    def check_room(self, questions: Sequence[Question]) -> None:
        """Refuse questions that leave no room in the model's context for a reply and its second stage, before any is
        asked.

        Args:
            questions: all that will be asked.

        Raises:
            ValueError: a prompt that is too long; the message names the method.
        """
        room = resolve(self.model, self.generation, chat=True).max_new_tokens
        if self.task.closing is not None:
            room += len(encode(self.model.tokenizer, self.task.closing)) + SECOND_STAGE_TOKENS
        offset = offset_token(self.model.tokenizer, self.offset)
        lengths: dict[str, int] = {}  # most methods ask the same thing, and rendering is slow
        for method in self.methods:
            tail = len(method.tail(self.model.tokenizer, method.offset_id(self.model.tokenizer, offset)))
            for question in questions:
                chat = method.chat(self.task.chat(question))
                key = repr(chat)
                if key not in lengths:
                    lengths[key] = len(self.model.encode(chat))
                if self.model.context is not None and lengths[key] + tail + room > self.model.context:
                    raise ValueError(
                        f"Under {method.label!r} the prompt of question {question.id!r} has {lengths[key]} tokens; with"
                        f" {room} more for the reply it exceeds the context of {self.model.name}, {self.model.context};"
                        " use fewer examples or lower max_new_tokens."
                    )

    def ask(self, questions: Sequence[Question], progress: bool) -> tuple[pd.DataFrame, bool]:
        """One row a question, method and sample, and whether all of them are there.

        After Ctrl-C the rows are those of the questions that every method answered; the caller says so.

        Args:
            questions: those to ask now.
            progress: whether to show a bar.
        """
        chats = [self.task.chat(q) for q in questions]
        columns = [*COLUMNS, *(f"by_{name}" for name in self._rules)]
        job = Job.plan(
            self.model,
            chats,
            self.methods,
            chat=True,
            offset=self.offset,
            generation=self.generation,
            samples=self.samples,
            seed=self.seed,
            batch_size=self.batch_size,
            backend=self.backend,
        )
        texts = job.run_until_interrupted(progress)
        try:
            choices = self._elicit(chats, questions, texts, progress)
        except KeyboardInterrupt:  # a reply whose choice wasn't elicited is no row
            return pd.DataFrame(columns=columns), False
        method = {m.label: m for m in self.methods}
        chosen: Sequence[Choice | None] = choices or [None] * len(texts)
        rows = [
            describe_reply(method[g.intervention], self.task, questions[g.prompt], g, choice)
            for g, choice in zip(texts, chosen, strict=True)
        ]
        frame = pd.DataFrame(rows, columns=columns)
        if not texts.complete:
            answered = frame.groupby("question")["text"].transform("size") == len(self.methods) * self.samples
            frame = frame[answered].reset_index(drop=True)
        return frame, texts.complete

    @property
    def _rules(self) -> list[str]:
        return [*self.task.rules, *(["likelihood"] if self.task.closing else [])]

    def _elicit(
        self, chats: Sequence[Any], questions: Sequence[Question], texts: Generations, progress: bool
    ) -> list[Choice] | None:
        if self.task.closing is None or not len(texts):
            return None

        return elicit(
            self.model,
            chats,
            self.methods,
            texts,
            closing=self.task.closing,
            letters=[tuple(q.choices) for q in questions],
            steered=self.second_stage == "steered",
            max_new_tokens=SECOND_STAGE_TOKENS,
            offset=self.offset,
            batch_size=self.batch_size,
            progress=progress,
        )


def describe_reply(
    method: Intervention, task: Task, question: Question, text: Generation, choice: Choice | None
) -> dict[str, Any]:
    """One row of the results: the raw text, its repetition, and how it is read (`read_reply`).

    Args:
        method: under which the text was generated.
        task: whose rules read it.
        question: that was asked.
        text: the reply.
        choice: what the second stage elicited, for tasks that have one.
    """
    closing = "" if choice is None else f"{task.closing}{choice.text}"
    read = read_reply(task, question, text.answer, closing, None if choice is None else choice.letter)
    row = dict(
        question=question.id,
        intervention=method.label,
        sample=text.sample,
        control_of=method.control_of,
        control_kind=method.control_kind,
        text=text.text,
        forced=text.forced,
        closing=closing,
        finish_reason=text.finish_reason,
        tokens=len(text.token_ids),
        repetition=repetition(text.token_ids),
    )
    return {**row, **read}
