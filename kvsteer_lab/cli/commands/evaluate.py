"""`kvsteer evaluate`: a task's questions under cache steering, prompts, a response prefill and random controls."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..backends import load_model_and_backend
from ..printing import say_line, say_text


def evaluate(
    task: str = "tiny-arithmetic",
    model: str = "tiny",
    template: str | None = None,
    vectors: Path | None = None,
    ck: float | None = None,
    cv: float | None = None,
    layers: tuple[int, ...] | None = None,
    prefix: str | None = None,
    controls: int = 40,
    n: int | None = 200,
    split: Literal["extraction", "dev", "test"] = "test",
    seed: int = 0,
    max_new_tokens: int | None = None,
    outcomes: tuple[str, ...] = (),
    samples: int = 1,
    temperature: float | None = None,
    batch_size: int = 64,
    out: Path | None = None,
    shard: str | None = None,
    zero_if_shard_done: bool = False,
    data_dir: Path | None = None,
    backend: str | None = None,
) -> None:
    """Evaluate interventions on a task and print the table with intervals, paired tests and side effects.

    The baseline, the run without offset token and the chain-of-thought prompt (as instruction and as prefix) are always
    in it. Exit code 0: done; 3: rows are missing, for this was a shard of several, or another process has some of the
    chunks; 130: interrupted, and with --out the same command goes on.

    Args:
        task: gsm8k, arc_challenge, commonsense_qa, piqa, tiny-arithmetic or tiny-tracking.
        model: "tiny", "smollm2-135m", "gemma3-270m", a folder, a .gguf file or a hub id.
        template: for a base model, how a question is written: "Question: {q}\\nAnswer:".
        vectors: steering vectors to add; without them only the prompts are compared.
        ck: coefficient of the keys; needed with vectors.
        cv: coefficient of the values; needed with vectors.
        layers: exactly these layers; by default 1 and above.
        prefix: words to force as the answer's first, on the unsteered model.
        controls: random vectors of the same size; 39 or more for a p-value below 0.05.
        n: number of questions; "None" for all of the split.
        split: dev to choose, test once everything is chosen.
        seed: which questions, and the noise of sampling.
        max_new_tokens: where replies are cut; by default the task's own limit.
        outcomes: what else is tested of the replies: words, direct, connectives, ...; "all" for all built-in ones.
        samples: replies a question; more than one are sampled.
        temperature: of sampling; by default the model's own.
        batch_size: replies decoded together.
        out: folder of the run. A stopped run goes on there; another one's folder is refused.
        shard: "i/N" runs the i-th of N parts (join them with kvsteer merge); needs --out.
        zero_if_shard_done: exit code 0, not 3, once this shard's own part is done, for schedulers that take 3 for a
            failure.
        data_dir: folder with a benchmark's files.
        backend: what decodes in place of transformers: vllm, server:URL (which has the vectors under their file's name,
            "s" for s.safetensors, and no random controls), llama.cpp:FILE.gguf.
    """
    import sys
    import warnings

    import kvsteer_lab as kv

    from ...evaluation.evaluate import evaluate_all
    from ...evaluation.runs import parse_shard
    from ..demo import format_table

    if (vectors is None) != (cv is None) or (vectors is None) != (ck is None):
        raise ValueError("Steering needs vectors and both coefficients; pass --vectors, --ck and --cv together.")
    if shard is not None and out is None:
        raise ValueError("A shard has to be kept to be joined; pass --out.")
    if zero_if_shard_done and shard is None:
        raise ValueError("--zero-if-shard-done says how a shard ends; pass --shard as well, or leave it out.")
    if temperature is not None and samples == 1:
        raise ValueError("--temperature does nothing to a single, greedy reply; pass --samples 2 or more as well.")
    chosen = kv.outcomes.as_outcomes(
        list(kv.outcomes.BUILT_IN) if outcomes == ("all",) else outcomes, kv.outcomes.BUILT_IN
    )
    own = None if vectors is None else kv.KVVectors.load(vectors)
    questions = kv.tasks.get(task, data_dir)
    loaded, decoder = load_model_and_backend(model, template, backend, vectors, own)
    methods: list[kv.Intervention] = [kv.CoTPrompt(), kv.CoTPrefix()]
    if prefix is not None:
        methods.append(kv.ForcedPrefix(prefix))
    if own is not None and ck is not None and cv is not None:
        steering = kv.CacheSteering(own, ck, cv, layers=layers)
        methods += [steering, *steering.controls(controls)]
    generation = {"max_new_tokens": max_new_tokens, "do_sample": samples > 1 or None, "temperature": temperature}
    results = evaluate_all(
        loaded,
        questions,
        methods,
        n=n,
        split=split,
        seed=seed,
        samples=samples,
        generation=generation,
        batch_size=batch_size,
        out=out,
        shard=shard,
        backend=decoder,
    )
    unfinished_code = 3
    if zero_if_shard_done and out is not None and not kv.Run.load(out).missing(parse_shard(shard)):
        unfinished_code = 0
    if results.rows.empty:
        say_line("No question is finished yet.")
        sys.exit(unfinished_code)
    if not results.complete:
        asked = results.rows.question.nunique()
        say_line(f"The run is unfinished: these tables count {asked} of {results.settings['n']} questions.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The run was interrupted")  # the line above says so once
        say_text(format_table(results.summary()))
        say_text(
            "\nGain over the baseline in accuracy, Newcombe's 95% interval; p: exact McNemar (several samples: exact"
            " permutation of questions), Holm over this table"
        )
        say_text(kv.readable(kv.compare(results).drop(columns=["task", "model"]).set_index("intervention")).to_string())
        say_text("\nSide effects")
        say_text(kv.readable(kv.side_effects(results)).to_string())
        if (results.rows.finish_reason == "length").any():
            say_text(
                "\nLengths in tokens: replies that were cut count as longer than the limit; the median is Kaplan and"
                " Meier's"
            )
            say_text(kv.readable(results.lengths()).to_string())
        if outcomes:
            say_text(
                "\nOutcomes; p: paired permutation (shares: exact McNemar), Holm over this table; p_random: random"
                " vectors as far from the baseline, on either side"
            )
            say_text(kv.readable(results.measure(chosen, questions).outcomes_table()).to_string())
        if len(results.rules) > 1:
            say_text("\nAccuracy under each rule that reads answers")
            say_text(kv.readable(results.by_rule(), decimals=3).to_string())
    if not results.complete:
        say_text("\nRows are missing: run the same command again, or merge the shards.")
        sys.exit(unfinished_code)
