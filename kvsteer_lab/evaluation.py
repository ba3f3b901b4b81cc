"""Interventions on a task's questions: accuracy, style and side effects, controls in the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from transformers import GenerationConfig

from . import __version__
from .generation import check_interventions, generate
from .interventions.base import Intervention, NoOffset, Nothing
from .outputs import Generation, Generations
from .prompts import encode, offset_token
from .results import COLUMNS, Results
from .resuming import ask_in_chunks
from .settings import resolve
from .stats import repetition
from .store import parse_shard
from .styles import detect_style, is_reasoned
from .tasks.base import Question, Task

if TYPE_CHECKING:
    from .elicitation import Choice
    from .models import Model

SecondStage = Literal["steered", "unsteered"]
SECOND_STAGE_TOKENS = 8
"""How far the closing words are continued."""


def evaluate(
    model: Model,
    task: Task,
    interventions: Intervention | Sequence[Intervention],
    *,
    n: int | None = 100,
    split: str = "test",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | GenerationConfig | None = None,
    samples: int = 1,
    second_stage: SecondStage = "steered",
    batch_size: int = 64,
    out: str | Path | None = None,
    shard: str | tuple[int, int] | None = None,
    chunk_size: int | None = None,
    progress: bool = True,
) -> Results:
    """Ask a task's questions under every intervention, all through the one path.

    The two baselines, with and without the offset token, are always in the run. Add `kv.random_controls(...)` to the
    interventions for a control-based p-value.

    Args:
        model: from `kv.load`.
        task: from `kv.tasks.get`, or your own.
        interventions: what to compare with the baseline.
        n: how many questions; `None`: all of the split.
        split: `"dev"` to choose settings, `"test"` once they are chosen.
        seed: which questions, and the noise of sampling.
        offset, generation, samples, batch_size, progress: as in `kv.generate`.
        second_stage: for tasks with closing words (multiple choice), whether the choice is elicited from the edited cache, as the
            reply was, or, as in the paper's own evaluation, from an unsteered one.
        out: folder of the run; its questions are then done in chunks, each written when it is finished, and a run that was stopped goes on there.
        shard: `"i/N"` does only every N-th chunk, beginning with the i-th (from 1). Shards may share a folder; `kv.merge` joins several.
        chunk_size: questions in a chunk; `None`: as many as have about 256 replies, fewer if a shard would get none.

    Returns:
        All rows; with `out`, those that are in the folder.

    Raises:
        ValueError: an unknown split, no questions, a folder that holds something else, or what `kv.generate` refuses; before anything is computed.
        OSError: the folder can't be written.
    """
    questions = task.questions(split, n, seed)
    if not questions:
        raise ValueError(f"The {split} split of task {task.name!r} gave no questions; ask for at least one.")
    if second_stage not in ("steered", "unsteered"):
        raise ValueError(f"second_stage={second_stage!r} is unknown; choose 'steered' or 'unsteered'.")
    inquiry = Inquiry(model, task, with_baselines(interventions), offset, generation, samples, seed, second_stage, batch_size)
    asked = dict(task=task.name, rule=next(iter(task.extractors)), split=split, n=len(questions), seed=seed, samples=samples)
    settings = dict(model=model.name, fingerprint=model.fingerprint, dtype=str(model.dtype), **asked, version=__version__)
    if out is None and (shard is not None or chunk_size is not None):
        raise ValueError("Chunks and shards are parts of a run on disk; name its folder with out=...")
    check_interventions(model, inquiry.methods)
    inquiry.check_room(questions)
    if out is None:
        frame, complete = inquiry.ask(questions, progress)
        return Results(frame, settings, complete)
    return Results.of_run(ask_in_chunks(inquiry, questions, out, settings=settings, shard=parse_shard(shard), chunk_size=chunk_size, progress=progress))


def with_baselines(interventions: Intervention | Sequence[Intervention]) -> tuple[Intervention, ...]:
    """The interventions, behind both baselines."""
    chosen = [interventions] if isinstance(interventions, Intervention) else list(interventions)
    return (*(b for b in (Nothing(), NoOffset()) if not any(type(c) is type(b) for c in chosen)), *chosen)


@dataclass(frozen=True)
class Inquiry:
    """All that is fixed in an evaluation but its questions.

    Attributes:
        model, task, methods: what is asked of whom; the baselines are among the methods.
        offset, generation, samples, seed, second_stage, batch_size: as in `evaluate`.
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

    def check_room(self, questions: Sequence[Question]) -> None:
        """Refuse questions that leave no room in the model's context for a reply and its second stage, before any is asked.

        Raises:
            ValueError: a prompt that is too long; the message names the method.
        """
        room = resolve(self.model, self.generation, chat=True).max_new_tokens
        if self.task.closing is not None:
            room += len(encode(self.model.tokenizer, self.task.closing)) + SECOND_STAGE_TOKENS
        offset = offset_token(self.model.tokenizer, self.offset)
        lengths: dict[str, int] = {}  # most methods ask the same thing, and rendering is slow
        for method in self.methods:
            tail = len(method.tail(self.model.tokenizer, offset))
            for question in questions:
                chat = method.chat(self.task.chat(question))
                key = repr(chat)
                if key not in lengths:
                    lengths[key] = len(self.model.encode(chat))
                if self.model.context is not None and lengths[key] + tail + room > self.model.context:
                    raise ValueError(
                        f"Under {method.label!r} the prompt of question {question.id!r} has {lengths[key]} tokens; with {room} more for the reply it exceeds "
                        f"the context of {self.model.name}, {self.model.context}; use fewer examples or lower max_new_tokens."
                    )

    def ask(self, questions: Sequence[Question], progress: bool) -> tuple[pd.DataFrame, bool]:
        """One row a question, method and sample, and whether all of them are there.

        After Ctrl-C the rows are those of the questions that every method answered.
        """
        chats = [self.task.chat(q) for q in questions]
        texts = generate(
            self.model,
            chats,
            self.methods,
            offset=self.offset,
            generation=self.generation,
            samples=self.samples,
            seed=self.seed,
            batch_size=self.batch_size,
            progress=progress,
        )
        choices = self._elicit(chats, questions, texts)
        method = {m.label: m for m in self.methods}
        chosen: Sequence[Choice | None] = choices or [None] * len(texts)
        rows = [describe(method[g.intervention], self.task, questions[g.prompt], g, choice) for g, choice in zip(texts, chosen, strict=True)]
        frame = pd.DataFrame(rows, columns=[*COLUMNS, *(f"by_{name}" for name in self._rules)])
        if not texts.complete:
            answered = frame.groupby("question")["text"].transform("size") == len(self.methods) * self.samples
            frame = frame[answered].reset_index(drop=True)
        return frame, texts.complete

    @property
    def _rules(self) -> list[str]:
        return [*self.task.extractors, *(["likelihood"] if self.task.closing else [])]

    def _elicit(self, chats: Sequence[Any], questions: Sequence[Question], texts: Generations) -> list[Choice] | None:
        if self.task.closing is None or not len(texts):
            return None
        from .elicitation import elicit

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
        )


def describe(method: Intervention, task: Task, question: Question, text: Generation, choice: Choice | None) -> dict[str, Any]:
    """One row of the results: the raw text, every rule's verdict on it, its style and its repetition.

    With a second stage, rules read the reply, the closing words and their continuation; where the main rule reads
    nothing, the likeliest letter is taken (the paper's forced choice).
    """
    closing = "" if choice is None else f"{task.closing}{choice.text}"
    verdicts = {f"by_{name}": rule(question, text.answer + closing) for name, rule in task.extractors.items()}
    read = next(iter(verdicts.values()))
    forced = choice is not None and read is None
    if choice is not None:
        verdicts["by_likelihood"] = choice.letter
        read = choice.letter if forced else read
    return dict(
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
        gold=question.answer,
        read_answer=read,
        choice_forced=forced,
        correct=read == question.answer,
        style=detect_style(text.answer),
        reasoned=is_reasoned(text.answer),
        repetition=repetition(text.token_ids),
        **verdicts,
    )
