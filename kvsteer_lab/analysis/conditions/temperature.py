"""The effect of sampling on a steering: greedy replies beside sampled ones, at several temperatures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...evaluation.grids import run_grid
from ...evaluation.measures import lengths, measure_samples
from ...interventions.checks import check_adds
from ...interventions.steering import Steering
from ...models.model import Model
from ...stats.shares import paired_difference
from ...tasks.base import Task


def temperature_response(
    model: Model,
    task: Task,
    steering: Steering,
    temperatures: Sequence[float] = (0.0, 0.5, 1.0, 1.5),
    *,
    samples: int = 4,
    controls: int = 0,
    n: int = 24,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    max_new_tokens: int = 128,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate a steering beside the baseline at several sampling temperatures, with the same noise for both.

    Args:
        model, task, n, split, seed, offset, batch_size, out, progress: as in `kv.evaluate`.
        steering: what is sampled under.
        temperatures: 0 is greedy decoding, one reply a question; nothing is cut from the distribution (no top-k, no
            top-p).
        samples: replies a question at the others.
        controls: random vectors of the same size; 0: none.
        max_new_tokens: per reply.

    Returns:
        One row per temperature and vector: `temperature`, `vector` (`"baseline"`, `"steering"`, `"random"`), `n`
        (questions), `samples`; the shares `accuracy`,
        `reasoned` and `adopted` (the vectors' own style, NaN if they don't say) with their 95% intervals `low`, `high`,
        `reasoned_low` and so on; `tokens`, the mean length; `truncated`, the share of replies cut at `max_new_tokens`.
        Intervals are Wilson's, clustered by question (`kv.stats.clustered_share`). Random vectors are one row: their
        mean and the middle 95% of them. The steering's rows also hold `gain`, `gain_low`, `gain_high`, what it adds to
        the baseline's accuracy (Newcombe's interval for paired questions, each with all of its samples on both sides),
        and with controls `p_random`, the share of them (plus one) that are as accurate.

    Raises:
        ValueError: no temperatures, one that is negative, NaN or infinite, fewer than one sample, vectors that are
            zero, or what `kv.evaluate` refuses; before anything is computed.
        KeyboardInterrupt: a run was interrupted; with `out`, the replies go on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, samples=2, max_new_tokens=4, progress=False)
        >>> table = kv.analysis.temperature_response(model, task, steering, [0.0, 1.0], **brief)
        >>> table[["temperature", "vector", "samples"]].values.tolist()
        [[0.0, 'baseline', 1], [0.0, 'steering', 1], [1.0, 'baseline', 2], [1.0, 'steering', 2]]
    """
    if len(temperatures) == 0:
        raise ValueError("There are no temperatures to try; pass at least one, 0 for greedy decoding.")
    if wrong := [t for t in temperatures if not 0 <= t < math.inf]:
        raise ValueError(f"There is a temperature {wrong[0]}; temperatures are 0 (greedy) or positive numbers.")
    if samples < 1 or samples != int(samples):
        raise ValueError(f"samples={samples} gives no replies; ask for at least 1.")
    check_adds(steering)
    rows = []
    for t in dict.fromkeys(float(t) for t in temperatures):
        generation: dict[str, Any] = dict(max_new_tokens=max_new_tokens)
        if t:
            generation |= dict(do_sample=True, temperature=t, top_k=0, top_p=1.0)
        grid = run_grid(
            model,
            task,
            {"steering": steering},
            controls=controls,
            n=n,
            split=split,
            seed=seed,
            offset=offset,
            generation=generation,
            samples=samples if t else 1,
            batch_size=batch_size,
            out=None if out is None else Path(out) / f"temperature {t:g}",
            progress=progress,
        )
        plain, steered, drawn = grid.baseline, grid.of("steering"), grid.drawn("steering")
        beside = grid.beside_controls("steering")
        p_random = {name: beside[name] for name in ("p_random",) if name in beside}
        rows.append(dict(temperature=t, vector="baseline") | measure_samples(plain, steering.style))
        measured = measure_samples(steered, steering.style)
        rows.append(dict(temperature=t, vector="steering") | measured | _gain(steered, plain) | p_random)
        if drawn:
            rows.append(dict(temperature=t, vector="random") | _pool(drawn, steering.style))
    return pd.DataFrame(rows)


def _gain(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, float]:
    sides = [(part.correct.tolist(), part.question.tolist()) for part in (ours, theirs)]
    (own, questions), (other, their_questions) = sides
    found = paired_difference(own, other, clusters=questions, their_clusters=their_questions)
    return dict(gain=found.value, gain_low=found.low, gain_high=found.high)


def _pool(controls: Sequence[pd.DataFrame], style: str | None) -> dict[str, Any]:
    """Random vectors as one row: the mean of their shares, and the middle 95% of them."""
    each = pd.DataFrame([measure_samples(part, style) for part in controls])
    row: dict[str, Any] = dict(n=int(each.n.iloc[0]), samples=int(each.samples.iloc[0]))
    for name, prefix in (("accuracy", ""), ("reasoned", "reasoned_"), ("adopted", "adopted_")):
        low, high = each[name].quantile([0.025, 0.975])
        row |= {name: float(each[name].mean()), f"{prefix}low": float(low), f"{prefix}high": float(high)}
    return row | lengths(pd.concat(controls))
