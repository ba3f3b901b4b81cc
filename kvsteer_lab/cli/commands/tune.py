"""`kvsteer tune`: coefficients chosen on development questions, confirmed once on test questions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..models import load_model
from ..printing import say_line, say_text


def tune(
    out: Path,
    task: str = "tiny-arithmetic",
    model: str = "tiny",
    template: str | None = None,
    methods: tuple[Literal["cache", "activation"], ...] = ("cache", "activation"),
    style: str = "stepwise",
    against: str = "direct",
    pairs: int = 100,
    shots: int = 3,
    cells: int = 24,
    n_dev: int = 100,
    n_test: int = 200,
    controls: int = 40,
    seed: int = 0,
    objective: str = "correct",
    most_tokens: float | None = None,
    most_kl: float | None = None,
    stop_when_flat: bool = True,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    data_dir: Path | None = None,
) -> None:
    """Extract vectors, search each method's coefficients on the development split, run the best once on the test split.

    Vectors come from the extraction split. Writes the vectors, cells.csv (every cell that was tried), the runs and the
    table. Stopped, it goes on when the same command is run again.

    Args:
        out: folder for everything.
        task: where questions and demonstrations come from.
        model: "tiny", "smollm2-135m", "gemma3-270m", a folder, a .gguf file or a hub id.
        template: for a base model, how a question is written: "Question: {q}\\nAnswer:".
        methods: cache steering, activation steering or both, with equal budgets.
        style: how the positive examples answer.
        against: how the negative examples answer.
        pairs: contrastive pairs.
        shots: examples in each prompt.
        cells: of each method in the first round.
        n_dev: development questions.
        n_test: test questions.
        controls: random controls of each chosen point.
        seed: of pairs and questions.
        objective: correct, reasoned, or another outcome that is maximised: connectives, enumeration, tokens, kl, ...
        most_tokens: the largest mean length that a chosen cell may have.
        most_kl: its largest KL from the baseline, in nats over the first 32 tokens of the baseline's reply.
        stop_when_flat: stop before the test questions where no cell differs from the baseline beyond noise.
        max_new_tokens: where replies are cut; by default the task's own limit.
        batch_size: replies decoded together.
        data_dir: folder with a benchmark's files.
    """
    import kvsteer_lab as kv

    from ..._util.files import check_writable, write_atomically
    from ...evaluation.tuning.objectives import Goal
    from ...evaluation.tuning.rounds import check_cells
    from ...interventions.checks import check_number_of_controls
    from ..demo import format_table

    if not methods:
        raise ValueError("There is nothing to tune; pass --methods cache, activation or both.")
    bounds = {k: (None, most) for k, most in (("tokens", most_tokens), ("kl", most_kl)) if most is not None}
    Goal.of(objective, bounds)
    if "cache" in methods:
        check_cells("cache steering", len(kv.CacheSearch.key_shares), cells)
    check_number_of_controls(controls)
    questions = kv.tasks.get(task, data_dir)
    for split, asked in (("dev", n_dev), ("test", n_test)):
        questions.questions(split, asked, seed)
    check_writable(out / "cells.csv")
    loaded = load_model(model, template)
    chosen = kv.ContrastiveSet.few_shot(
        questions, loaded.tokenizer, style=style, against=against, n=pairs, shots=shots, seed=seed
    )
    searches: list[kv.tuning.Search] = []
    if "cache" in methods:
        vectors = kv.extract(loaded, chosen)
        vectors.save(out / "vectors.safetensors")
        searches.append(kv.CacheSearch(vectors))
    if "activation" in methods:
        activations = kv.extract_activations(loaded, chosen)
        activations.save(out / "activations.safetensors")
        searches.append(kv.ActivationSearch(activations))
    generation = {"max_new_tokens": max_new_tokens}
    tuning = kv.tune(
        loaded,
        questions,
        searches,
        cells=cells,
        objective=objective,
        stop_when_flat=stop_when_flat,
        bounds=bounds,
        n=n_dev,
        seed=seed,
        generation=generation,
        batch_size=batch_size,
        out=out / "dev",
    )
    write_atomically(out / "cells.csv", lambda path: tuning.cells.to_csv(path, index=False))
    say_line(f"Chosen on {n_dev} development questions of {task}, among all cells in {out / 'cells.csv'}:")
    best = tuning.cells[tuning.cells.chosen].set_index("method")
    say_text(kv.readable(best[["variant", "dose", "accuracy", "low", "high", "tokens"]]).to_string())
    if tuning.no_better:
        say_line(f"No cell is above the baseline under: {', '.join(tuning.no_better)}.")
    if tuning.flat:
        say_line("No cell differs from the baseline beyond noise, so there is no held-out test.")
        return
    for search in searches:
        say_line(f"{search.name}: {tuning.best[search.name]}")
    others = [kv.CoTPrompt(), kv.CoTPrefix(), kv.ForcedPrefix.of_style(questions, loaded.tokenizer, style)]
    results = tuning.confirm(others, n=n_test, controls=controls, out=out / "test")
    say_text(f"\nHeld-out test, {n_test} questions, once:\n{format_table(results.summary())}")
    say_text("\nGain over the baseline in accuracy, Newcombe's 95% interval; p: exact McNemar, Holm over this table")
    table = kv.compare(results)
    write_atomically(out / "comparison.csv", lambda path: table.to_csv(path, index=False))
    say_text(kv.readable(table.drop(columns=["task", "model"]).set_index("intervention")).to_string())
