"""Divergence and coefficient: how far, in nats, a steering moves the model at each coefficient. With it, methods can be
compared at equal divergence.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...evaluation.doses import check_coefficients
from ...generation.divergence import divergence, divergences
from ...generation.generate import generate_all
from ...interventions.base import Nothing
from ...interventions.checks import check_adds
from ...interventions.scaled import Scaled
from ...models.model import Model
from ...tasks.base import Task


def divergence_response(
    model: Model,
    task: Task,
    steering: Scaled,
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
        One row per coefficient and vector: `coefficient`, `vector` (`"steering"` or `"random 3"`); `kl`, mean nats on
        the baseline's texts, which are the same for all, with `kl_low`, `kl_high`, the middle 95% of the questions; and
        `kl_own`, on the steered replies (NaN for random vectors).

    Raises:
        ValueError: no coefficients, vectors that are zero, or what `kv.divergence` refuses; before anything is
            generated.
        KeyboardInterrupt: the run was interrupted.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, max_new_tokens=4, progress=False)
        >>> table = kv.analysis.divergence_response(model, task, steering, [1, 6], **brief)
        >>> bool(table.kl[0] < table.kl[1])
        True
    """
    given = check_coefficients("coefficients", coefficients)
    check_adds(steering)
    chats = [task.chat(q) for q in task.questions(split, n, seed)]
    steered = [steering.at(c, f"coefficient {c:g}") for c in given]
    texts = generate_all(
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
        {"steering": method}
        | {f"random {seed + i}": control for i, control in enumerate(method.controls(controls, seed))}
        for method in steered
    ]
    every = [each for vectors in drawn for each in vectors.values()]
    moved = iter(divergences(model, chats, own["baseline"], every, batch_size=batch_size))
    rows = []
    for method, vectors in zip(steered, drawn, strict=True):
        for vector in vectors:
            plain = pd.Series(next(moved).totals)
            row = dict(
                coefficient=method.coefficient,
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
