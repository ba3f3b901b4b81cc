"""Behaviours on a model: steered by cache and by activations, tuned on dev, tested beside random vectors.

    python benchmarks/behaviours.py --model smollm2-135m --runs runs/behaviours
    python benchmarks/behaviours.py --entangle 12       # what the stored steerings do to facts and refusals

Chapter 16 reads what it writes to results/behaviours/, a folder a model. A run that was stopped goes on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import tyro

import kvsteer_lab as kv
from kvsteer_lab.behaviours import Sizes

RESULTS = Path(__file__).parent / "results" / "behaviours"


def main(
    model: str = "smollm2-135m",
    behaviours: tuple[str, ...] = ("french", "negative", "bullets", "pirate"),
    runs: Path = Path("runs/behaviours"),
    sizes: Sizes | None = None,
    out: Path = RESULTS,
    entangle: int = 0,
    template: str | None = None,
) -> Path:
    """Run the study of every behaviour, and write their results to one folder.

    Args:
        model: its name, or a folder or hub id.
        behaviours: names of `kv.behaviours.NAMES`.
        runs: where unfinished runs are kept.
        sizes: how much is done.
        out: where the results go, in a folder of the model's name.
        entangle: instead, on so many questions each, what the stored cache steerings do to simple facts and to harmless
            requests, with two random vectors each.
        template: of a base model, how a question is written: "Question: {q}\\nAnswer:".
    """
    written = None if template is None else kv.PlainTemplate(template.replace("\\n", "\n"))
    loaded, out = kv.load(model, template=written), out / Path(model).name
    if entangle:
        study = kv.behaviours.read_study(out)
        table, replies = measure_entanglement(loaded, study, entangle, runs / "entanglement")
        table.to_csv(out / "entanglement.csv")
        replies.to_parquet(out / "entanglement_replies.parquet", index=False)
        return out
    studies = []
    for name in behaviours:
        studies.append(kv.behaviours.run_study(loaded, name, runs, sizes=sizes, progress=False))
        print(kv.readable(studies[-1].table).to_string(), flush=True)
        kv.behaviours.write_study(studies, out)
    return out


def measure_entanglement(
    model: kv.Model, study: kv.behaviours.BehaviourStudy, n: int, runs: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Facts and over-refusal under every stored cache steering: the table, and the replies that it counts."""
    measured = [kv.behaviours.get("facts"), kv.behaviours.get("over-refusal")]
    table = kv.behaviours.entangle(
        model,
        {name: replace(cache, name=f"cache steering {name}") for name, (cache, _) in study.steerings.items()},
        measured,
        n=n,
        controls=2,
        generation={"max_new_tokens": 24},
        out=runs,
        progress=False,
    )
    return table, pd.concat([replies_to(one, kv.Results.load(runs / one.name)) for one in measured])


def replies_to(behaviour: kv.behaviours.Behaviour, results: kv.Results) -> pd.DataFrame:
    """What was said to each question: `measured`, `question`, `intervention`, `text`, `correct`."""
    asked = {question.id: question.text for question in behaviour.questions["test"]}
    rows = results.rows[["question", "intervention", "text", "correct"]]
    return rows.assign(question=rows.question.map(asked)).assign(measured=behaviour.name)


if __name__ == "__main__":
    tyro.cli(main)
