"""An evaluation done in chunks of questions, each written when it is finished, so that it can be stopped and go on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .._util.progress import bar
from .._util.provenance import provenance
from .._version import __version__
from ..generation.generate import check_prompts
from ..generation.settings import resolve
from ..models.prompts import template_hash
from ..tasks.base import Question
from .identity import describe, hash_of
from .plan import EvaluationPlan
from .runs import Run

REPLIES = 256
"""About how many replies a chunk has: enough to fill batches, few enough to lose."""


def ask_in_chunks(
    inquiry: EvaluationPlan,
    questions: Sequence[Question],
    out: str | Path,
    *,
    settings: Mapping[str, Any],
    shard: tuple[int, int] = (1, 1),
    chunk_size: int | None = None,
    progress: bool = True,
) -> Run:
    """Ask the questions of a shard that the run in `out` doesn't have yet.

    Ctrl-C keeps the finished chunks and says how to go on.

    Args:
        inquiry: what is asked of whom.
        questions: all questions of the run, not only of the shard.
        out: the run's folder, new or begun.
        settings: recorded beside the rows.
        shard: part i of N, from 1.
        chunk_size: questions in a chunk; `None`: as many as have about `REPLIES` replies, fewer if a shard would get
            none. A run that was begun keeps its chunks.
        progress: whether to show a bar.

    Raises:
        ValueError: questions that share an id, a chunk size below 1, another run in `out`, or what `kv.generate`
            refuses; before anything is computed.
        OSError: `out` can't be written.
    """
    by_id = {q.id: q for q in questions}
    if len(by_id) < len(questions):
        raise ValueError(
            f"Of {len(questions)} questions only {len(by_id)} have an id of their own; a run on disk needs distinct"
            " ids."
        )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}.")
    replies = max(1, len(inquiry.methods) * inquiry.samples)
    size = chunk_size or max(1, min(REPLIES // replies, len(questions) // shard[1]))
    ids = list(by_id)
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    for part in parts:
        chats = [inquiry.task.chat(by_id[i]) for i in part]
        check_prompts(
            inquiry.model,
            chats,
            inquiry.methods,
            offset=inquiry.offset,
            generation=inquiry.generation,
            samples=inquiry.samples,
        )
    run = Run.open(out, identify(inquiry, questions), parts, settings=settings, provenance=provenance(_device(inquiry)))
    missing = run.missing(shard)
    try:
        with bar(sum(len(run.chunks[chunk]) for chunk in missing), "evaluate", "question", progress) as shown:
            for chunk in missing:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Interrupted")  # the message below tells more
                    rows, complete = inquiry.ask([by_id[i] for i in run.chunks[chunk]], progress=False)
                if not complete:
                    raise KeyboardInterrupt
                run.write(chunk, rows)
                shown.update(len(run.chunks[chunk]))
    except KeyboardInterrupt:
        done = f"{len(run.finished)} of {len(run.chunks)} chunks are in {run.path}"
        warnings.warn(f"Interrupted: {done}; do the same again to go on from there.", stacklevel=3)
    return run


def identify(inquiry: EvaluationPlan, questions: Sequence[Question]) -> dict[str, Any]:
    """Everything that the rows depend on: model, data, interventions, settings and the package's version.

    How rows are batched, which device computes them and where the weights come from is left out.
    """
    model, task = inquiry.model, inquiry.task
    resolved = resolve(model, inquiry.generation, chat=True)
    generation = dict(
        max_new_tokens=resolved.max_new_tokens,
        eos=resolved.eos,
        sample=resolved.sample,
        warpers=[{"class": type(warper).__name__, **vars(warper)} for warper in resolved.warpers],
        other={k: v for k, v in resolved.config.to_diff_dict().items() if k != "transformers_version"},
    )
    asked = [[q.id, task.chat(q), q.answer, dict(q.choices)] for q in questions]
    identity = dict(
        version=__version__,
        model=dict(fingerprint=model.fingerprint, dtype=model.dtype, template=template_hash(model.tokenizer)),
        data=dict(task=task.name, questions=len(questions), sha256=hash_of(describe(asked))),
        settings=dict(
            seed=inquiry.seed,
            samples=inquiry.samples,
            offset=inquiry.offset,
            generation=generation,
            second_stage=inquiry.second_stage,
            closing=task.closing,
            rules=list(task.extractors),
        ),
        interventions=[{"label": method.label, **describe(method)} for method in inquiry.methods],
    )
    return describe(identity)


def _device(inquiry: EvaluationPlan) -> str:
    device = inquiry.model.device
    return f"{device.type}: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
