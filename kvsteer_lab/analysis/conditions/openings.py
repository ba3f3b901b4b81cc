"""Forced openings: the first tokens of each steered reply are forced on the unsteered model. This shows whether
steering does more than choose the first tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..._util.batching import in_batches
from ..._util.progress import bar
from ...evaluation.measures import share
from ...generation.decoding import decode
from ...generation.generate import generate_all
from ...generation.rows import Row, check_context, group_rows, make_rows
from ...generation.settings import Settings, resolve
from ...interventions.base import Intervention, Nothing
from ...interventions.checks import check_intervention
from ...models.lock import locked
from ...models.model import Model
from ...models.tokens import offset_token
from ...stats.significance import mcnemar
from ...tasks.base import Question, Task
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
    A response prefill of the style is the same question with one text for all; here every question gets its own.

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
        KeyboardInterrupt: the run was interrupted.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.forced_openings(model, task, steering, lengths=[0, 4], **brief)
        >>> table.k.tolist(), float(table.same_answer[0])
        ([<NA>, 0, 4], 1.0)
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
    steered = generate_all(
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


@locked
def _decode(model: Model, rows: Sequence[Row], settings: Settings) -> list[list[int]]:
    return decode(model, rows, settings, 0)


def _measure(
    task: Task, questions: Sequence[Question], texts: Sequence[str], steered: Sequence[str], k: int | None
) -> dict[str, Any]:
    rule = next(iter(task.rules.values()))
    right, theirs = (
        [task.is_correct(q, t) for q, t in zip(questions, replies, strict=True)] for replies in (texts, steered)
    )
    same = [rule(q, a) == rule(q, b) for q, a, b in zip(questions, texts, steered, strict=True)]
    row = dict(k=k, n=len(right)) | share(pd.Series(right), "accuracy")
    row |= dict(reasoned=sum(map(is_reasoned, texts)) / len(texts), same_answer=sum(same) / len(same))
    return row | dict(p=None if k is None else mcnemar(right, theirs))
