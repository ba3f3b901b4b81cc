"""The main job, end to end on the bundled model: contrastive set, extraction, injection, evaluation, figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .._util.terms import COT_RATE, label_name
from ..evaluation.evaluate import evaluate_all
from ..evaluation.results import Results
from ..figures.comparison import plot_comparison
from ..figures.saving import save_figure
from ..interventions.cache import CacheSteering
from ..interventions.controls import random_controls
from ..interventions.prompt import CoTPrompt, ForcedPrefix
from ..models.loading import load
from ..tasks import get
from ..vectors.extraction import extract
from ..vectors.kv import KVVectors
from ..vectors.pairs import ContrastiveSet
from .printing import say_line, say_text

STYLE = "stepwise"
CK, CV = 0.0, 2.0


@dataclass(frozen=True)
class Demo:
    """What the demo computed, and where it wrote it."""

    vectors: KVVectors
    results: Results
    files: tuple[Path, ...]


def run_demo(
    out: str | Path = "kvsteer-demo",
    *,
    model: str = "tiny",
    task: str = "tiny-arithmetic",
    n: int = 100,
    controls: int = 40,
) -> Demo:
    """Extract vectors on the extraction split, steer test questions, print and save what happened.

    Args:
        out: the folder for vectors, results and figure.
        model: anything that `kv.load` takes.
        task: anything that `kv.tasks.get` takes.
        n: test questions.
        controls: random vectors.
    """
    out = Path(out)
    say_line(f"1. Load {model!r}, and make 100 contrastive pairs of {task} ({STYLE} against direct, 3 shots).")
    loaded, questions = load(model), get(task)
    pairs = ContrastiveSet.few_shot(questions, loaded.tokenizer, style=STYLE, n=100, shots=3, seed=0)
    say_line("2. Extract the mean difference of keys and values at the prompts' last token.")
    vectors = extract(loaded, pairs)
    say_text(
        f"3. Add it once to the last cached slot (ck={CK:g}, cv={CV:g}) of {n} test questions, beside baselines and"
        f" {controls} random vectors."
    )
    steering = CacheSteering(vectors, ck=CK, cv=CV)
    methods = [
        CoTPrompt(),
        ForcedPrefix.of_style(questions, loaded.tokenizer, STYLE),
        steering,
        *random_controls(steering, controls),
    ]
    results = evaluate_all(loaded, questions, methods, n=n, split="test", seed=0)
    summary = results.summary()
    say_text(f"\n{format_table(summary)}\n")
    say_line("accuracy [95% interval; of random vectors: their middle 95%] | p: exact McNemar against the baseline")
    row = summary.loc[steering.label]
    least = f"{1 / (controls + 1):.3f} is the smallest possible"
    say_text(
        f"Against {controls} random vectors of its size: p = {row.p_random:.3f} in accuracy, p ="
        f" {row.p_random_reasoned:.3f} in CoT rate ({least}).\n"
    )
    asked = {q.id: q.text for q in questions.questions("test", n, 0)}
    print_side_by_side(results, asked, ["baseline", steering.label], 3)
    files = (
        vectors.save(out / "vectors.safetensors"),
        results.save(out / "results.parquet"),
        out / "quickstart.png",
    )
    save_figure(plot_comparison(summary), out / "quickstart", model=loaded, seed=0)
    say_line("Written:", *(f"  {file}" for file in files))
    return Demo(vectors, results, files)


def format_table(summary: pd.DataFrame) -> str:
    """The summary as text that fits a terminal."""
    shown = pd.DataFrame(
        {
            "accuracy": [f"{r.accuracy:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in summary.itertuples()],
            "p": ["" if pd.isna(p) else f"{p:.1e}" if p < 0.001 else f"{p:.3f}" for p in summary.p],
            COT_RATE: summary.reasoned.map("{:.2f}".format).to_list(),
            "tokens": summary.tokens.map("{:.1f}".format).to_list(),
            "truncated": summary.truncated.map("{:.2f}".format).to_list(),
            "repetition": summary.repetition.map("{:.2f}".format).to_list(),
        },
        index=pd.Index(map(label_name, summary.index), name=None),
    )
    return shown.to_string()


def print_side_by_side(results: Results, texts: Mapping[str, str], labels: Sequence[str], n: int) -> None:
    """The first `n` questions with their replies, one block each; `texts` gives a question's text by its id."""
    rows = results.rows[(results.rows["sample"] == 0) & results.rows.intervention.isin(labels)]
    for question in rows.question.unique()[:n]:
        asked = rows[rows.question == question].set_index("intervention")
        say_text(f"Q  {texts[question]}   (gold: {asked.gold.iloc[0]})")
        for label in labels:
            row = asked.loc[label]
            say_text(
                f"   {label_name(label)}: {(row.forced + row.text).strip()}  [{'right' if row.correct else 'wrong'}]"
            )
        say_line("")
