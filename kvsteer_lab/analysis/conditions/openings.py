"""Does steering do more than choose the first tokens? Its own openings, put into the unsteered model's mouth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..._util.batching import in_batches
from ..._util.progress import bar
from ...generation.decoding import decode
from ...generation.generate import check_intervention, generate
from ...generation.rows import check_context, group_rows, make_rows
from ...generation.settings import resolve
from ...interventions.base import Intervention, Nothing
from ...models.lock import LOCK
from ...models.model import Model
from ...models.prompts import offset_token
from ...stats.intervals import wilson
from ...stats.significance import mcnemar
from ...tasks.base import Task
from ...tasks.styles import is_reasoned


def forced_openings(
    model: Model,
    task: Task,
    intervention: Intervention,
    lengths: Sequence[int] = (1, 2, 3, 8),
    *,
    n: int = 100,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Force the first k tokens of each steered reply on the unsteered model, and compare what follows with the steered
    reply.

    Where the unsteered model, so begun, answers as the steered one does, the edit did no more than choose these tokens.
    A forced prefix of the style is the same question with one text for all; here every question gets its own.

    Args:
        model, task, n, split, seed, offset, generation, batch_size, progress: as in `kv.evaluate`; greedy.
        intervention: what acts on the prompt; it may change the cache or the residual stream, but not the chat.
        lengths: the k to try; 0 is the baseline.

    Returns:
        One row per k, and one for the intervention itself (`k` is missing): `n`, `accuracy` with its Wilson interval
        `low`, `high`, `reasoned`, `same_answer`, the share of questions that get the steered reply's answer, `p`, the
        exact McNemar test of equal accuracy with it.

    Raises:
        ValueError: no or negative lengths, or what `kv.generate` refuses.
    """
    if not lengths or min(lengths) < 0:
        raise ValueError(f"lengths must be one or more numbers of tokens, 0 or above, not {tuple(lengths)}.")
    method = check_intervention(model, intervention)
    questions = task.questions(split, n, seed)
    chats = [task.chat(q) for q in questions]
    if any(method.chat(chat) != chat for chat in chats):
        raise ValueError(
            f"{method.label!r} changes the chat; only what acts on the cache or the residual stream can be compared"
            " with its own opening."
        )
    settings = resolve(model, generation, chat=True)
    steered = generate(
        model, chats, method, offset=offset, generation=generation, batch_size=batch_size, progress=progress
    )
    openings = [[t for t in ids if t not in settings.eos] for ids in steered.token_ids]
    plain = make_rows(model, Nothing(), [model.encode(chat) for chat in chats], offset_token(model.tokenizer, offset))
    answers = [g.answer for g in steered]
    table = [_measure(task, questions, answers, answers, None)]
    with bar(len(lengths) * len(plain), "force openings", "text", progress) as shown:
        for k in dict.fromkeys(lengths):
            rows = [replace(row, tail=(*row.tail, *opening[:k])) for row, opening in zip(plain, openings, strict=True)]
            check_context(model, rows, settings.max_new_tokens)
            texts: dict[int, str] = {}
            for group in group_rows(model, rows):
                for batch, found in in_batches(
                    group,
                    batch_size,
                    lambda b, rows=rows: _decode(model, [rows[i] for i in b], settings),  # type: ignore[misc]
                ):
                    shown.update(len(batch))
                    for i, ids in zip(batch, found, strict=True):
                        texts[i] = model.tokenizer.decode([*openings[i][:k], *ids], skip_special_tokens=True)
            table.append(_measure(task, questions, [texts[i] for i in range(len(rows))], answers, k))
    return pd.DataFrame(table).astype({"k": "Int64"})


def _decode(model: Model, rows: Sequence[Any], settings: Any) -> list[list[int]]:

    with LOCK:
        return decode(model, rows, settings, 0)


def _measure(
    task: Task, questions: Sequence[Any], texts: Sequence[str], steered: Sequence[str], k: int | None
) -> dict[str, Any]:
    rule = next(iter(task.extractors.values()))
    right = [task.is_correct(q, t) for q, t in zip(questions, texts, strict=True)]
    theirs = [task.is_correct(q, t) for q, t in zip(questions, steered, strict=True)]
    same = [rule(q, a) == rule(q, b) for q, a, b in zip(questions, texts, steered, strict=True)]
    low, high = wilson(sum(right), len(right))
    counts = dict(
        n=len(right),
        accuracy=sum(right) / len(right),
        low=low,
        high=high,
        reasoned=sum(map(is_reasoned, texts)) / len(texts),
    )
    return dict(k=k, **counts, same_answer=sum(same) / len(same), p=None if k is None else mcnemar(right, theirs))
