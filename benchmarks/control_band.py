"""A band of random controls on a pretrained model: how long it takes, how soon its progress bar moves, and how much
memory it takes at most.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import measure
import tyro

import kvsteer_lab as kv
from kvsteer_lab._util import progress


def main(
    model: str = "smollm2-135m",
    task: str = "commonsense_qa",
    questions: int = 60,
    controls: int = 20,
    tokens: int = 96,
    cv: float = 4.0,
    pairs: int = 12,
    shots: int = 3,
    threads: int = 1,
    out: Path | None = None,
) -> Path:
    """Measure one band.

    Args:
        model: any that `kv.load` knows.
        task: whose development questions are asked.
        questions: how many.
        controls: random vectors of the steering's size.
        tokens: the longest reply.
        cv: the coefficient of the values; keys are left alone.
        pairs, shots: of the contrastive set.
        threads: of PyTorch.
        out: folder for the JSON file.
    """
    clock = measure.Clock("cpu", threads)
    loaded, asked = kv.load(model), kv.tasks.get(task)
    bundled = kv.tasks.get("tiny-arithmetic")  # any vectors do; these need no traces
    made = kv.ContrastiveSet.few_shot(bundled, loaded.tokenizer, style="stepwise", n=pairs, shots=shots, seed=0)
    steering = kv.CacheSteering(kv.extract(loaded, made, progress=False), ck=0, cv=cv)
    began, moved = time.perf_counter(), []
    original = progress.tqdm.update

    def update(self: Any, n: float | None = 1) -> Any:
        moved.append(time.perf_counter() - began)
        return original(self, n)

    progress.tqdm.update = update
    try:
        began = time.perf_counter()
        seconds, results = clock.time(
            lambda: kv.evaluate(
                loaded,
                asked,
                [steering, *kv.random_controls(steering, controls)],
                n=questions,
                split="dev",
                generation={"max_new_tokens": tokens},
            )
        )
        wall = time.perf_counter() - began
    finally:
        progress.tqdm.update = original
    rows = results.rows
    found = dict(
        replies=len(rows),
        mean_tokens=round(float(rows["tokens"].mean()), 1),
        seconds=round(seconds, 1),
        wall_seconds=round(wall, 2),
        first_movement_seconds=round(moved[0], 2),
        longest_stillness_seconds=round(max(b - a for a, b in zip([0.0, *moved], moved, strict=False)), 2),
        peak_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    )
    print(found)
    settings = dict(
        model=model, task=task, questions=questions, controls=controls, tokens=tokens, cv=cv, pairs=pairs, shots=shots
    )
    return measure.write(f"control_band-{model}", measure.environment(clock, loaded.dtype), settings, [found], out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
