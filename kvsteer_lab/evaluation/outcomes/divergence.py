"""KL from the baseline as an outcome: a column `kl` beside the replies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ...generation.divergence import divergences
from ...interventions.base import Intervention
from ...models.model import Model
from ...models.tokens import encode
from ...tasks.base import Task
from ..results import Results

FIRST = 32
"""Over how many tokens of the baseline's reply KL is summed."""


def measure_divergence(
    results: Results,
    model: Model,
    task: Task,
    interventions: Intervention | Sequence[Intervention],
    *,
    first: int = FIRST,
    offset: str | int = "\n",
    batch_size: int = 32,
) -> Results:
    """Results with the column `kl`: KL(intervention || baseline) in nats, summed over the first tokens of the
    baseline's kept reply to the question; the built-in outcome `"kl"` reads it.

    The text is the same for all interventions, and the first sample where there are several. Where the baseline's reply
    is empty, and for interventions that aren't named, the column is NaN; of the baseline it is 0.
    An intervention is held against the baseline after its own offset token, so the column of `NoOffset` is 0, too.

    Args:
        results: of an evaluation of this model on this task.
        model, task, offset: as they were given to `kv.evaluate`.
        interventions: those that are measured, controls among them.
        first: tokens of the reply.
        batch_size: rows read together; halved where memory runs out.

    Returns:
        New results.

    Raises:
        ValueError: no baseline, `first` below 1, or questions of another task.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task, prompt = kv.load("tiny"), kv.tasks.get("tiny-arithmetic"), kv.CoTPrompt()
        >>> results = kv.evaluate(model, task, prompt, n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> measured = kv.outcomes.measure_divergence(results, model, task, prompt)
        >>> bool((measured.of("CoT prompt").kl > 0).all()), measured.of("baseline").kl.tolist()
        (True, [0.0, 0.0])
    """
    if first < 1:
        raise ValueError(f"KL is summed over the first tokens of a reply, at least 1, not {first}.")
    methods = [interventions] if isinstance(interventions, Intervention) else list(interventions)
    questions = results.questions_of(task)
    plain = results.of("baseline")
    texts = {
        row.question: ids[:first]
        for row in plain[plain["sample"] == plain["sample"].min()].itertuples()
        if (ids := encode(model.tokenizer, row.text))
    }
    found = {("baseline", question): 0.0 for question in texts}
    asked = [method for method in methods if method.label != "baseline"]
    if texts and asked:
        chats = [task.chat(questions[question]) for question in texts]
        each = divergences(model, chats, list(texts.values()), asked, offset=offset, batch_size=batch_size)
        for method, one in zip(asked, each, strict=True):
            found |= {(method.label, q): nats for q, nats in zip(texts, one.totals, strict=True)}
    keys = zip(results.rows.intervention, results.rows.question, strict=True)
    return replace(results, rows=results.rows.assign(kl=[found.get(key, math.nan) for key in keys]))
