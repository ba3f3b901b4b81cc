"""Doses in nats: how far a steering moves the model at each coefficient, so that methods can be compared at equal
divergence.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...evaluation.doses import Steering, check_adds, check_coefficients, coefficient_of, controls_of, scaled
from ...generation.divergence import divergence, divergences
from ...generation.generate import generate
from ...interventions.base import Nothing
from ...models.model import Model
from ...tasks.base import Task


def divergence_response(
    model: Model,
    task: Task,
    steering: Steering,
    coefficients: Sequence[float],
    *,
    controls: int = 0,
    n: int = 24,
    split: str = "dev",
    seed: int = 0,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """KL(steered || plain) in nats at several coefficients, summed over whole texts: `kv.divergence`, on the text that
    each side wrote.

    With the questions of `kv.dose_response` and its coefficients, the two tables can be merged on `coefficient` and
    `vector`.

    Args:
        model, task, n, split, seed, batch_size, progress: as in `kv.evaluate`.
        steering, coefficients: as in `kv.dose_response`.
        controls: random vectors a coefficient, the same ones as there; 0: none.
        max_new_tokens: of the texts.

    Returns:
        One row a coefficient and vector: `coefficient`, `vector` (`"steering"` or `"random 3"`); `kl`, mean nats on the
        baseline's texts, which are the same
        for all, with `kl_low`, `kl_high`, the middle 95% of the questions; and `kl_own`, on the steered replies (NaN
        for random vectors).

    Raises:
        ValueError: no coefficients, vectors that are zero, or what `kv.divergence` refuses; before anything is
            generated.
    """
    given = check_coefficients("coefficients", coefficients)
    check_adds(steering)
    chats = [task.chat(q) for q in task.questions(split, n, seed)]
    steered = [scaled(steering, c, f"coefficient {c:g}") for c in given]
    texts = generate(
        model,
        chats,
        [Nothing(), *steered],
        generation=dict(max_new_tokens=max_new_tokens),
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    own = {
        label: [text.token_ids for text in texts if text.intervention == label]
        for label in ("baseline", *(s.label for s in steered))
    }
    drawn = [
        {"steering": method} | {f"random {seed + i}": c for i, c in enumerate(controls_of(method, controls, seed))}
        for method in steered
    ]
    every = [each for vectors in drawn for each in vectors.values()]
    moved = iter(divergences(model, chats, own["baseline"], every, batch_size=batch_size))
    rows = []
    for method, vectors in zip(steered, drawn, strict=True):
        for vector in vectors:
            plain = pd.Series(next(moved).totals)
            row = dict(
                coefficient=coefficient_of(method),
                vector=vector,
                kl=plain.mean(),
                kl_low=plain.quantile(0.025),
                kl_high=plain.quantile(0.975),
            )
            if vector == "steering":
                row["kl_own"] = float(
                    pd.Series(divergence(model, chats, own[method.label], method, batch_size=batch_size).totals).mean()
                )
            rows.append(row)
    return pd.DataFrame(rows).reindex(columns=["coefficient", "vector", "kl", "kl_low", "kl_high", "kl_own"])
