"""Interventions on a task's questions: accuracy, style and side effects, controls in the same run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from .._version import __version__
from ..generation.backend import Backend, check_backend
from ..generation.settings import asked_for
from ..interventions.base import Intervention, NoOffset, Nothing
from ..interventions.checks import check_interventions
from ..models.model import Model
from ..tasks.base import Task, check_task
from ..tasks.recognition import warn_unrecognised
from .chunks import ask_in_chunks
from .interruption import EvaluationInterrupted
from .kept_runs import kept_place
from .outcomes.built_in import BUILT_IN
from .outcomes.divergence import measure_divergence
from .outcomes.outcome import Outcome, as_outcomes
from .plan import EvaluationPlan, SecondStage
from .results import Results
from .runs import parse_shard


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
    outcomes: Sequence[str | Outcome | Callable[..., Any]] = (),
    batch_size: int = 64,
    backend: Backend | None = None,
    out: str | Path | None = None,
    shard: str | tuple[int, int] | None = None,
    chunk_size: int | None = None,
    progress: bool = True,
) -> Results:
    """Ask a task's questions under every intervention, all through the one path.

    The two baselines, with and without the offset token, are always in the run. Add `kv.random_controls(...)` to the
    interventions for a p-value against random vectors.

    Args:
        model: from `kv.load`.
        task: from `kv.tasks.get`, or your own.
        interventions: what to compare with the baseline.
        n: how many questions; `None`: all of the split.
        split: `"dev"` to choose settings, `"test"` once they are chosen.
        seed: which questions, and the noise of sampling.
        offset, samples, batch_size, backend, progress: as in `kv.generate`.
        generation: as in `kv.generate`; replies are cut at the task's own `max_new_tokens` unless it says otherwise.
        second_stage: for tasks with closing words (multiple choice), whether the choice is elicited from the edited
            cache, as the reply was, or, as in the paper's own evaluation, from an unsteered one.
        outcomes: what else is measured of the finished replies, beside accuracy and style: names of built-in outcomes
            (`kv.outcomes.BUILT_IN`), functions from question and reply to a number, `kv.outcomes.Outcome`s. They change
            no text, and may as well be measured later (`Results.measure`, KL by `kv.outcomes.measure_divergence`);
            `Results.outcomes_table` tests them.
        out: folder of the run; its questions are then done in chunks, each written when it is finished, and a run that
            was stopped goes on there. Without it the environment's `KVSTEER_RUNS` names a folder in which every run has
            a place by what it is.
        shard: `"i/N"` does only every N-th chunk, beginning with the i-th (from 1). Shards may share a folder;
            `kv.merge` joins several.
        chunk_size: questions in a chunk; `None`: as many as have about 256 replies, fewer if a shard would get none.

    Returns:
        All rows; with `out`, those that are in the folder. After Ctrl-C, those of the questions that are finished,
        `complete=False`, and a warning. Where an outcome's function fails, the rows without outcomes, and a warning.

    Raises:
        ValueError: an unknown split, no questions, a folder that holds something else, or what `kv.generate` refuses;
            before anything is computed.
        OSError: the folder can't be written.
        EvaluationInterrupted: Ctrl-C when the last chunk was in `out` already.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> short = {"max_new_tokens": 4}
        >>> results = kv.evaluate(model, task, kv.CoTPrompt(), n=2, split="dev", generation=short, progress=False)
        >>> results.interventions
        ['baseline', 'no offset', 'CoT prompt']
    """
    chosen = as_outcomes(outcomes, BUILT_IN)
    try:
        results = evaluate_all(
            model,
            task,
            interventions,
            n=n,
            split=split,
            seed=seed,
            offset=offset,
            generation=generation,
            samples=samples,
            second_stage=second_stage,
            batch_size=batch_size,
            backend=backend,
            out=out,
            shard=shard,
            chunk_size=chunk_size,
            progress=progress,
        )
    except EvaluationInterrupted as stopped:
        if stopped.results.complete:  # no part of it: Ctrl-C came when its last chunk was in place
            raise
        warnings.warn(str(stopped), stacklevel=2)
        results = stopped.results
    if any(outcome.name == "kl" for outcome in chosen) and len(results.rows):
        methods = with_baselines(interventions)
        results = measure_divergence(results, model, task, methods, offset=offset, batch_size=batch_size)
    if not chosen or not len(results.rows):
        return results
    try:
        return results.measure(chosen, task)
    except (ValueError, OSError) as error:  # the replies took long, and can be measured later
        warnings.warn(f"No outcome was measured: {error} results.measure(...) measures the kept replies.", stacklevel=2)
        return results


def evaluate_all(
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
    backend: Backend | None = None,
    out: str | Path | None = None,
    shard: str | tuple[int, int] | None = None,
    chunk_size: int | None = None,
    progress: bool = True,
) -> Results:
    """All rows, or none: as `evaluate`, but Ctrl-C is raised. For whatever goes on to compute with the rows.

    Args:
        model, task, interventions, n, split, seed, offset, generation, samples, second_stage, batch_size: as in
            `evaluate`.
        backend, out, shard, chunk_size, progress: as in `evaluate`.

    Returns:
        Every row; fewer with a shard, or where another process is generating a chunk.

    Raises:
        ValueError, OSError: as `evaluate`.
        EvaluationInterrupted: Ctrl-C, with what is finished.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> evaluate_all(model, task, [], n=2, generation={"max_new_tokens": 4}, progress=False).complete
        True
    """
    check_task(task)
    questions = task.questions(split, n, seed)
    if not questions:
        raise ValueError(f"The {split} split of task {task.name!r} gave no questions; ask for at least one.")
    if second_stage not in ("steered", "unsteered"):
        raise ValueError(f"second_stage={second_stage!r} is unknown; choose 'steered' or 'unsteered'.")
    plan = EvaluationPlan(
        model,
        task,
        with_baselines(interventions),
        offset,
        with_limit(task, generation),
        samples,
        seed,
        second_stage,
        batch_size,
        backend,
    )
    asked = dict(task=task.name, rule=next(iter(task.rules)), split=split, n=len(questions), seed=seed, samples=samples)
    settings = dict(
        model=model.name, fingerprint=model.fingerprint, dtype=str(model.dtype), **asked, version=__version__
    )
    if out is None and (shard is not None or chunk_size is not None):
        raise ValueError("Chunks and shards are parts of a run on disk; name its folder with out=...")
    check_interventions(model, plan.methods)
    check_backend(backend)
    if backend is not None and task.closing is not None:
        raise ValueError(
            f"Task {task.name!r} asks a second time, with closing words behind the reply, which only transformers does;"
            " run it without backend=..."
        )
    plan.check_room(questions)
    warn_unrecognised(task)
    out = kept_place(plan, questions) if out is None else out
    if out is None:
        frame, complete = plan.ask(questions, progress)
        results = Results(frame, settings, complete)
        if not complete:
            done = f"{frame.question.nunique()} of {len(questions)} questions are finished"
            raise EvaluationInterrupted(done, results)
        return results
    return Results.of_run(
        ask_in_chunks(
            plan,
            questions,
            out,
            settings=settings,
            shard=parse_shard(shard),
            chunk_size=chunk_size,
            progress=progress,
        )
    )


def with_limit(task: Task, generation: Mapping[str, Any] | GenerationConfig | None) -> dict[str, Any]:
    """Settings of generation in which the task says where replies are cut, unless the caller does.

    Args:
        task: that is asked.
        generation: as in `kv.generate`.

    Example:
        >>> import kvsteer_lab as kv
        >>> with_limit(kv.tasks.get("tiny-arithmetic"), None), with_limit(kv.tasks.get("tiny-arithmetic"), {"top_k": 5})
        ({'max_new_tokens': 128}, {'max_new_tokens': 128, 'top_k': 5})
    """
    return {"max_new_tokens": task.max_new_tokens, **asked_for(generation)}


def with_baselines(interventions: Intervention | Iterable[Intervention]) -> tuple[Intervention, ...]:
    """Both baselines, then the interventions; a baseline that is among them stays where it is.

    Args:
        interventions: one, several or none.

    Example:
        >>> import kvsteer_lab as kv
        >>> [method.label for method in with_baselines([kv.CoTPrompt(), kv.Nothing()])]
        ['no offset', 'CoT prompt', 'baseline']
    """
    several = isinstance(interventions, Iterable) and not isinstance(interventions, Intervention | str)
    chosen: list[Any] = list(interventions) if several else [interventions]  # type: ignore[arg-type]
    return (*(b for b in (Nothing(), NoOffset()) if not any(type(c) is type(b) for c in chosen)), *chosen)
