"""A small sweep on the bundled model, shared by the tests of sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kvsteer_lab as kv


def small_plan(folder: Path, **changes: Any) -> kv.sweeps.SweepPlan:
    """Eight questions in chunks of one, in two shards, with vectors of four pairs."""
    vectors = folder / "tiny-tiny-arithmetic.safetensors"
    if not vectors.exists():
        model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        kv.extract(model, pairs, progress=False).save(vectors)
    steering = {"vectors": str(folder / "{model}-{task}.safetensors"), "doses": [{"cv": 2}], "controls": 1}
    plan = dict(
        out=str(folder / "runs"),
        models=["tiny"],
        tasks=["tiny-arithmetic"],
        interventions={"strengths": steering},
        n=8,
        generation={"max_new_tokens": 12},
        chunk_size=1,
        shards=2,
    )
    return kv.sweeps.SweepPlan.of({**plan, **changes})


def in_one_piece(plan: kv.sweeps.SweepPlan) -> kv.Results:
    """The rows of the plan's first run, asked in one process and not stored."""
    unit = plan.units[0]
    return kv.evaluate(
        kv.load("tiny"),
        kv.tasks.get(unit.task),
        unit.methods.build(),
        n=unit.n,
        generation=unit.generation,
        progress=False,
    )


def same_rows(one: kv.Results, other: kv.Results) -> bool:
    """Whether two results hold the same rows, in whatever order."""
    by = ["question", "intervention", "sample"]
    a, b = (r.rows.sort_values(by).reset_index(drop=True) for r in (one, other))
    return bool(a.equals(b[a.columns].astype(a.dtypes)))
