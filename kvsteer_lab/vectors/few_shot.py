"""Few-shot pairs: the same questions after the same examples, which are answered in one style and in another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from ..models.prompts import render
from ..models.tokens import encode
from ..tasks.base import Task, check_task
from ..tasks.traces.task import TracedTask, TracesTask
from .contrasts import Contrast
from .shots import at_random, by_nearness, fit, put_before, shared, shots_chat, worked


def few_shot_contrasts(
    task: Task,
    tokenizer: Any,
    *,
    style: str,
    against: str,
    n: int,
    shots: int,
    select: Literal["random", "nearest", "shared"],
    encoder: str | None,
    max_prompt_tokens: int | None,
    seed: int,
) -> tuple[list[Contrast], dict[str, Any]]:
    """Few-shot chats, pair by pair, and how they were made.

    Args:
        task, tokenizer, style, against, n, shots, select, encoder: as in `ContrastiveSet.few_shot`.
        max_prompt_tokens, seed: as there.

    Raises:
        ValueError: as there.
    """
    check_task(task)
    if style == against:
        raise ValueError(f"Both sides would answer in style {style!r}; name another one as against=.")
    if n < 1 or shots < 1:
        raise ValueError(f"n and shots must be at least 1, not {n} and {shots}.")
    if select not in ("random", "nearest", "shared"):
        raise ValueError(f"select={select!r} is unknown; choose 'random', 'nearest' or 'shared'.")
    if encoder is not None and select != "nearest":
        raise ValueError(f"encoder={encoder!r} does nothing for examples at random; pass select='nearest', too.")
    pool = worked(task, (style, against), seed)
    if len(pool) < (n + shots if select == "shared" else max(n, shots + 1)):
        found = f"Task {task.name!r} has {len(pool)} questions for extraction"
        apart = " of their own" * (select == "shared")
        raise ValueError(
            f"{found}, too few for {n} pairs with {shots} shots{apart}; counted are those with replies in both styles."
        )
    rng = random.Random(seed)
    asked = rng.sample(range(len(pool)), n)
    texts = [w.question.text for w in pool]
    if select == "nearest":
        ranked = by_nearness(texts, asked, encoder)
    else:
        ranked = shared(rng, len(pool), asked) if select == "shared" else at_random(rng, len(pool), asked, shots)
    chosen = [order[:shots] for order in ranked]
    recipe = dict(
        task=task.name,
        style=style,
        against=against,
        shots=shots,
        select=select,
        seed=seed,
        questions=[pool[q].question.id for q in asked],
    )
    recipe |= {"encoder": encoder} if encoder is not None else {}
    recipe |= {"traces": task.traces.digest} if isinstance(task, TracedTask | TracesTask) else {}

    def contrast(question: int, examples: Sequence[int]) -> Contrast:
        shown, last = [pool[i] for i in examples], task.chat(pool[question].question)
        return Contrast(*(put_before(shots_chat(task, shown, side), last) for side in (style, against)))

    if max_prompt_tokens is not None:

        def fits(question: int, examples: Sequence[int]) -> bool:
            return all(
                len(encode(tokenizer, render(tokenizer, chat))) <= max_prompt_tokens
                for chat in contrast(question, examples)
            )

        drawn, size = chosen, [len(w) for w in pool]
        chosen = [fit(order, shots, size, partial(fits, q)) for q, order in zip(asked, ranked, strict=True)]
        if [] in chosen:
            crowded = pool[asked[chosen.index([])]].question.id
            raise ValueError(
                f"Question {crowded!r} leaves no room for an example within max_prompt_tokens={max_prompt_tokens};"
                " allow more tokens."
            )
        fewer = sum(len(kept) < shots for kept in chosen)
        changed = sum(kept != taken for kept, taken in zip(chosen, drawn, strict=True))
        recipe |= dict(max_prompt_tokens=max_prompt_tokens, pairs_changed=changed, pairs_with_fewer_shots=fewer)
    if select == "nearest":
        chosen = [kept[::-1] for kept in chosen]
    return [contrast(q, kept) for q, kept in zip(asked, chosen, strict=True)], recipe
