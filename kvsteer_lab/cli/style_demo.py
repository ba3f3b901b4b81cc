"""The same story on a pretrained model: one edit of one cached slot decides how the model opens its reply.

Vectors of five reasoning styles, their relative strength chosen on development questions and tested once on others,
beside random vectors of the same size. What is counted is the style of the opening; replies are cut there, so nothing
is said about right answers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .._util.terms import STRENGTH
from ..evaluation.evaluate import evaluate
from ..evaluation.results import Results
from ..figures.adoption import plot_adoption
from ..figures.saving import save_figure
from ..interventions.base import Intervention, Nothing
from ..interventions.cache import CacheSteering
from ..interventions.controls import random_controls
from ..interventions.prompt import ForcedPrefix
from ..models.loading import load
from ..models.model import Model
from ..stats.shares import wilson
from ..stats.significance import control_p, holm, mcnemar
from ..tasks import get
from ..tasks.base import Task
from ..vectors.extraction import extract
from ..vectors.kv import KVVectors
from ..vectors.pairs import ContrastiveSet
from .printing import say_line, say_text

DOSES = (0.5, 0.8, 1.2, 1.8, 2.7)
"""The relative strengths that are tried: the norm of what is added over the norm of the slot's own values."""
TOKENS = 24
"""How much of a reply is generated: enough to see how it opens, and whether it says the same again and again."""
_MOST_REPEATED = 0.5  # share of a reply's 4-grams; one with more has no style


@dataclass(frozen=True)
class StyleDemo:
    """What the demo computed, and where it wrote it.

    Attributes:
        vectors: by style.
        doses: chosen on development questions, by style.
        results: of the test questions.
        table: one row a style and vector: the share of replies in that style, with its interval.
        files: what was written.
    """

    vectors: dict[str, KVVectors]
    doses: dict[str, float]
    results: Results
    table: pd.DataFrame
    files: tuple[Path, ...]


def run_style_demo(
    out: str | Path = "kvsteer-demo",
    *,
    model: str,
    task: str = "tiny-arithmetic",
    n: int = 16,
    controls: int = 20,
    n_dev: int = 6,
    pairs: int = 16,
    shots: int = 2,
) -> StyleDemo:
    """Extract the vectors of every reasoning style of a task, choose relative strengths on development questions, steer
    test questions beside random vectors, print and save what happened.

    Args:
        out: the folder for vectors, results and figure.
        model: anything that `kv.load` takes.
        task: a task with replies in several reasoning styles.
        n: test questions.
        controls: random vectors a style.
        n_dev: development questions for each relative strength.
        pairs: contrastive pairs a style.
        shots: examples in a prompt.
    """
    out, began = Path(out), time.perf_counter()
    questions = get(task)
    styles = [style for style in questions.styles if style != "direct"]
    say_line(f"1. Load {model!r}; it has never seen {task}.")
    loaded = load(model)
    say_line(
        f"2. For each of {len(styles)} styles, {pairs} contrastive pairs (that style against answering at once,"
        f" {shots} examples), and the mean difference of keys and values at the prompts' last token."
    )
    vectors = {style: _extract(loaded, questions, style, pairs, shots) for style in styles}
    tried = ", ".join(map(str, DOSES))
    say_line(f"3. Choose a relative strength for each style on {n_dev} development questions ({tried}).")
    chosen, doses = _choose(loaded, questions, vectors, n_dev)
    if not chosen:
        raise ValueError(f"No strength of any vectors brings its style to {model!r} on {n_dev} development questions.")
    say_line(
        f"4. The held-out test: add it once to the last cached slot of {n} other questions, beside {controls} random"
        " vectors of the same size for each style."
    )
    forced = {style: ForcedPrefix.of_style(questions, loaded.tokenizer, style) for style in chosen}
    methods: list[Intervention] = [*chosen.values(), *dict.fromkeys(forced.values())]
    methods += [control for steering in chosen.values() for control in random_controls(steering, controls)]
    results = _ask(loaded, questions, methods, n, "test")
    table = adoption(results, {style: (steering.label, forced[style]) for style, steering in chosen.items()})
    tested = summarise_adoption(table, results)
    say_text(f"\n{format_adoption(tested, doses)}\n")
    say_line(
        "Shares of replies in the style [95% interval]; p: exact McNemar against the baseline, corrected by Holm for"
        " the styles; random: mean and highest of the random vectors; p random: the smallest possible is"
        f" {1 / (controls + 1):.3f}."
    )
    say_text(f"\n{verdict(tested, controls, n)}\n")
    _show_texts(results, questions, {style: steering.label for style, steering in chosen.items()}, n)
    files = [own.save(out / f"{style}.safetensors") for style, own in vectors.items()]
    files += [results.save(out / "results.parquet"), out / "styles.png"]
    save_figure(plot_adoption(table), out / "styles", model=loaded, seed=0)
    say_line(f"Written, after {time.perf_counter() - began:.0f} s:", *(f"  {file}" for file in files))
    return StyleDemo(vectors, doses, results, table, tuple(files))


def adoption(results: Results, labels: dict[str, tuple[str, ForcedPrefix]]) -> pd.DataFrame:
    """Of each style, how many replies have it under its vectors, under the baseline and each random vector, and behind
    a response prefill with the style's first token. A reply that mostly repeats itself has no style.

    Args:
        results: of an evaluation.
        labels: by style, the label of its steering and its response prefill.
    """
    made = []
    for style, (label, forced) in labels.items():
        opening = forced.text.strip()
        controls = results.rows[results.rows.control_of == label].intervention.unique()
        named = {"baseline": "baseline", "steering": label, "forced first token": forced.label}
        for vector, whose in (named | {f"random {i}": name for i, name in enumerate(controls)}).items():
            hits = _adopts(results, whose, style)
            low, high = wilson(int(hits.sum()), len(hits))
            shares = dict(n=len(hits), adopted=float(hits.mean()), low=low, high=high)
            made.append(dict(style=style, opening=opening, vector=vector, label=whose) | shares)
    return pd.DataFrame(made)


def summarise_adoption(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row a style: the shares side by side, and whether they are more than chance.

    Args:
        table: from `adoption`.
        results: what it was made of.
    """
    made = {}
    for style, part in table.groupby("style", sort=False):
        own = part.set_index("vector")
        random = own[own.index.str.startswith("random")].adopted.tolist()
        steered = own.loc["steering"]
        hits, plain = (_adopts(results, own.label[which], str(style)) for which in ("steering", "baseline"))
        made[style] = dict(
            opening=steered.opening,
            adopted=steered.adopted,
            low=steered.low,
            high=steered.high,
            baseline=own.adopted["baseline"],
            forced=own.adopted["forced first token"],
            random=sum(random) / len(random),
            highest=max(random),
            p=mcnemar(hits.tolist(), plain.tolist()),
            p_random=control_p(float(steered.adopted), random),
        )
    summary = pd.DataFrame.from_dict(made, orient="index")
    return summary.assign(p_holm=holm(summary.p.tolist()))


def format_adoption(summary: pd.DataFrame, doses: dict[str, float]) -> str:
    """The summary as text that fits a terminal."""
    shown = pd.DataFrame(
        {
            "opens": summary.opening,
            STRENGTH: [f"{doses[style]:g}" for style in summary.index],
            "vectors": [f"{r.adopted:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in summary.itertuples()],
            "baseline": summary.baseline.map("{:.2f}".format),
            "p": summary.p_holm.map(lambda p: f"{p:.1e}" if p < 0.001 else f"{p:.3f}"),
            "random": [f"{r.random:.2f}, {r.highest:.2f}" for r in summary.itertuples()],
            "p random": summary.p_random.map("{:.3f}".format),
            "response prefill": summary.forced.map("{:.2f}".format),
        }
    )
    return shown.to_string()


def verdict(summary: pd.DataFrame, controls: int, n: int) -> str:
    """What the table says, in words that follow from its numbers.

    Args:
        summary: from `summarise_adoption`.
        controls: random vectors a style.
        n: test questions.
    """
    shown = summary[(summary.p_holm < 0.05) & (summary.p_random <= 1 / (controls + 1)) & (summary.adopted > 0)]
    rest = [style for style in summary.index if style not in shown.index]
    lines = []
    if len(shown):
        lines.append(
            f"In {', '.join(shown.index)} the vectors bring the style more often than the baseline does and than every"
            " one of the random vectors: it is the direction that counts."
        )
    if rest:
        lines.append(
            f"In {', '.join(rest)} that is not shown on {n} questions: nothing is to be concluded from these vectors."
        )
    behind = summary[summary.forced >= summary.adopted].index.tolist()
    if behind:
        lines.append(
            f"A response prefill with the style's first token does at least as much in {', '.join(behind)}, so the edit"
            " may do no more than choose it."
        )
    return "\n".join([*lines, f"Replies are cut at {TOKENS} tokens: nothing here is about right answers."])


def _extract(model: Model, task: Task, style: str, pairs: int, shots: int) -> KVVectors:
    made = ContrastiveSet.few_shot(task, model.tokenizer, style=style, n=pairs, shots=shots, seed=0)
    return extract(model, made, progress=False)


def _choose(
    model: Model, task: Task, vectors: dict[str, KVVectors], n: int
) -> tuple[dict[str, CacheSteering], dict[str, float]]:
    """For each style the smallest of the relative strengths whose replies have it most often; styles that no relative
    strength brings are left out.
    """
    chats = [task.chat(question) for question in task.questions("dev", n, 0)]
    cells: dict[tuple[str, float], CacheSteering] = {}
    for style, own in vectors.items():
        unit = CacheSteering(own, ck=0, cv=1).unit_dose(model, chats)
        for dose in DOSES:
            cells[style, dose] = CacheSteering(own, ck=0, cv=dose / unit, name=f"{style}, relative strength {dose:g}")
    tried = _ask(model, task, list(cells.values()), n, "dev")
    share = {cell: _adopts(tried, steering.label, cell[0]).mean() for cell, steering in cells.items()}
    doses = {}
    for style in vectors:
        most = max(share[style, dose] for dose in DOSES)
        if most:
            doses[style] = min(dose for dose in DOSES if share[style, dose] == most)
        verdict = f"chosen {doses[style]:g}" if most else "no strength brings it, a null; it is left out below"
        say_line(f"   {style}: {', '.join(f'{share[style, dose]:.2f}' for dose in DOSES)}; {verdict}")
    return {style: cells[style, dose] for style, dose in doses.items()}, doses


def _ask(model: Model, task: Task, methods: Sequence[Intervention], n: int, split: str) -> Results:
    settings = {"max_new_tokens": TOKENS}
    return evaluate(model, task, [Nothing(), *methods], n=n, split=split, seed=0, generation=settings, progress=False)


def _adopts(results: Results, label: str, style: str) -> pd.Series:
    """Whether each question's reply has the style, in one order of the questions."""
    rows = results.rows[results.rows.intervention == label].set_index("question")
    return ((rows["style"] == style) & (rows.repetition < _MOST_REPEATED)).sort_index()


def _show_texts(results: Results, task: Task, labels: dict[str, str], n: int) -> None:
    question = task.questions("test", n, 0)[0]
    rows = results.rows[results.rows.question == question.id].set_index("intervention")
    say_text(f"Q  {question.text}")
    for name, label in {"baseline": "baseline", **labels}.items():
        say_line(f"   {name}: {' '.join(rows.text[label].split())} ...")
    say_line("")
