"""Interventions on a task's questions: accuracy, style and side effects, controls in the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from transformers import GenerationConfig

from . import __version__
from .generation import generate
from .interventions.base import Intervention, NoOffset, Nothing
from .results import COLUMNS, Results
from .stats import repetition
from .styles import detect_style, is_reasoned
from .tasks.base import Task

if TYPE_CHECKING:
    from .models import Model


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
    batch_size: int = 64,
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

    Raises:
        ValueError: an unknown split, no questions, or what `kv.generate` refuses; before anything is computed.
    """
    questions = task.questions(split, n, seed)
    if not questions:
        raise ValueError(f"The {split} split of task {task.name!r} gave no questions; ask for at least one.")
    chosen = [interventions] if isinstance(interventions, Intervention) else list(interventions)
    baselines = [b for b in (Nothing(), NoOffset()) if not any(type(c) is type(b) for c in chosen)]
    methods: list[Intervention] = [*baselines, *chosen]
    controls = {m.label: m.control_of for m in methods}
    texts = generate(
        model,
        [task.chat(q) for q in questions],
        methods,
        offset=offset,
        generation=generation,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    rows = []
    for g in texts:
        question = questions[g.prompt]
        read = task.read_answer(g.answer)
        style = detect_style(g.answer)
        rows.append(
            (question.id, g.intervention, g.sample, controls[g.intervention], g.text, g.forced, g.finish_reason, len(g.token_ids), read, question.answer)
            + (task.is_correct(question, g.answer), style, is_reasoned(g.answer), repetition(g.token_ids))
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    if not texts.complete:
        answered = frame.groupby("question")["text"].transform("size") == len(methods) * samples
        frame = frame[answered].reset_index(drop=True)
    settings = dict(
        model=model.name, fingerprint=model.fingerprint, dtype=str(model.dtype), task=task.name, split=split, n=len(questions), seed=seed, version=__version__
    )
    return Results(frame, settings, texts.complete)
