"""The bundled pair on its two tasks: every intervention on the same test questions, with tuned coefficients and
controls.

Vectors come from the extraction split and coefficients from the development split; the test split is run once. The
table, all paired differences with Holm's correction over both models and tasks, side effects, and the tuning's cells go
to one JSON file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import measure
import pandas as pd
import tyro

import kvsteer_lab as kv

STYLE = "stepwise"
FLAT = "{:.3g}".format


def main(
    models: tuple[str, ...] = ("tiny", "tiny-control"),
    tasks: tuple[str, ...] = ("tiny-arithmetic", "tiny-tracking"),
    n_test: int = 200,
    n_dev: int = 60,
    cells: int = 24,
    controls: int = 40,
    pairs: int = 100,
    seed: int = 0,
    out: Path | None = None,
) -> Path:
    """Run every model on every task.

    Args:
        models: bundled ones.
        tasks: names of tasks.
        n_test: test questions a task.
        n_dev: development questions a task.
        cells: of each method's search in its first round.
        controls: of each kind for each tuned method.
        pairs: contrastive pairs.
        seed: of pairs, questions and controls.
        out: folder for the JSON file.
    """
    runs: list[kv.Results] = []
    found: list[dict[str, Any]] = []
    for name in models:
        model = kv.load(name)
        for task in map(kv.tasks.get, tasks):
            print(f"\n== {name}, {task.name}")
            tuning, results = evaluate(model, task, n_test, n_dev, cells, controls, pairs, seed)
            runs.append(results)
            print(results.summary().to_string(float_format=FLAT, na_rep=""))
            print(kv.side_effects(results).to_string(float_format=FLAT, na_rep=""))
            tables = dict(
                summary=results.summary(), effects=kv.side_effects(results), rules=results.by_rule(), cells=tuning.cells
            )
            found.append(dict(model=name, task=task.name, **{key: _records(table) for key, table in tables.items()}))
    families = {against: kv.compare(runs, against=against) for against in ("baseline", "CoT prompt", "forced, 1 token")}
    for against, table in families.items():
        print(f"\n== against {against!r}, Holm over {len(table)} comparisons")
        print(table.to_string(float_format=FLAT, index=False))
    settings = dict(
        models=models, tasks=tasks, n_test=n_test, n_dev=n_dev, cells=cells, controls=controls, pairs=pairs, seed=seed
    )
    results_of = dict(runs=found, families={against: _records(table) for against, table in families.items()})
    return measure.write("evaluation", measure.environment(measure.Clock("cpu")), settings, results_of, out)


def evaluate(
    model: kv.Model, task: kv.tasks.Task, n_test: int, n_dev: int, cells: int, controls: int, pairs: int, seed: int
) -> tuple[kv.tuning.Tuning, kv.Results]:
    """Tune every method on development questions, then run all interventions once on test questions."""
    contrast = kv.ContrastiveSet.few_shot(task, model.tokenizer, style=STYLE, n=pairs, shots=3, seed=seed)
    differences = kv.extract_pairs(model, contrast, progress=False)
    activations = kv.extract_activations(model, contrast, progress=False)
    searches = [
        kv.CacheSearch(differences.mean()),
        kv.CacheSearch(
            kv.extract(model, contrast, keys="position_free", progress=False), name="cache steering, position-free keys"
        ),
        kv.ActivationSearch(activations, (0, 1), (None, ""), name="activation, one-shot"),
        kv.ActivationSearch(activations, (0, 1), (None, ""), every_token=True, name="activation, every token"),
    ]
    tuning = kv.tune(model, task, searches, cells=cells, n=n_dev, seed=seed, progress=False)
    steering = tuning.best["cache steering"]
    assert isinstance(steering, kv.CacheSteering)
    few_shot = kv.FewShot.of_style(task, STYLE, 3, seed)
    forced = [_named(kv.ForcedPrefix.of_style(task, model.tokenizer, STYLE, k), k) for k in (1, 2, 3)]
    keys = steering.cv * _ratio(model, task, steering, n_dev, seed)
    others = [
        *(kv.CoTPrompt(), kv.CoTPrefix(), few_shot, *forced),
        kv.CacheSteering(steering.vectors, keys, 0.0, name="cache steering, keys only"),
        kv.CacheSteering(steering.vectors, 0.0, steering.cv, name="cache steering, values only"),
        kv.CacheSteering(steering.vectors, keys, steering.cv, name="cache steering, keys and values"),
        kv.Together(kv.CoTPrompt(), steering),
        kv.Together(few_shot, kv.CacheSteering(-steering.vectors, steering.ck, steering.cv, name="sign flip")),
        kv.controls.other_slot(steering, -2),
        *kv.controls.label_shuffle_controls(steering, differences, controls, seed),
    ]
    return tuning, tuning.confirm(others, n=n_test, seed=seed, controls=controls, progress=False)


def _named(prefix: kv.ForcedPrefix, k: int) -> kv.ForcedPrefix:
    return kv.ForcedPrefix(prefix.text, name=f"forced, {k} token{'s' if k > 1 else ''}")


def _ratio(model: kv.Model, task: kv.tasks.Task, steering: kv.CacheSteering, n: int, seed: int) -> float:
    """The key coefficient, per value coefficient, that gives keys and values the same dose."""
    chats = [task.chat(q) for q in task.questions("dev", n, seed)]
    dose = steering.unit_doses(model, chats)
    return float(dose["values"] / dose["keys"])


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON, the index among them."""
    frame = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
    return list(json.loads(frame.to_json(orient="records", double_precision=6)))


if __name__ == "__main__":
    tyro.cli(main)
