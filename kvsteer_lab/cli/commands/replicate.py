"""`kvsteer replicate`: the paper's experiment on a model, resumable."""

from __future__ import annotations

from pathlib import Path

from ..models import load_model
from ..printing import say_line


def replicate(
    out: Path,
    model: str = "smollm2-135m",
    template: str | None = None,
    tasks: tuple[str, ...] = ("gsm8k", "arc_challenge", "commonsense_qa", "piqa"),
    pairs: int = 100,
    shots: int = 3,
    cells: int = 12,
    dev: int = 40,
    test: int = 100,
    controls: int = 20,
    control_test: int | None = None,
    uncached_test: int = 20,
    measured: int = 40,
    block: int = 20,
    max_new_tokens: int | None = None,
    seed: int = 0,
    shard: str | None = None,
    zero_if_shard_done: bool = False,
    batch_size: int = 64,
    data_dir: Path | None = None,
    traces: Path | None = None,
) -> None:
    """Run the paper's experiment: vectors from the extraction split, every method tuned on dev with the same number of
    cells, the test split asked once, random vectors beside it.

    What it will cost is printed before it starts. Stopped, it goes on when the same command is run again; with a larger
    --test it goes on where a smaller one ended. Writes index.html, table.csv, rows.parquet (with texts), and release/,
    which "kvsteer audit" reads. Exit code 0: done; 3: blocks of other shards are missing.

    Args:
        out: folder for everything.
        model: "tiny", "smollm2-135m", "gemma3-270m", a folder, a .gguf file or a hub id.
        template: for a base model, how a question is written: "Question: {q}\\nAnswer:".
        tasks: done one after another; each has demonstrations of its own or traces.
        pairs: contrastive pairs.
        shots: examples in each prompt.
        cells: that each tuned method gets; a multiple of 3.
        dev: development questions.
        test: test questions of every method.
        controls: random vectors, at the method's own coefficients and again at equal divergence.
        control_test: test questions of the random vectors; by default as many as of the methods.
        uncached_test: test questions of the scope that computes every token anew.
        measured: test questions on which the divergence from the baseline is measured.
        block: questions asked together; a killed run loses one block.
        max_new_tokens: where replies are cut; by default the task's own limit.
        seed: of pairs, questions and controls.
        shard: "i/N" does every N-th block, beginning with the i-th, in the same folder.
        zero_if_shard_done: exit code 0, not 3, once this shard's own blocks are done, for schedulers that take 3 for a
            failure.
        batch_size: replies decoded together.
        data_dir: folder with the benchmarks' files.
        traces: folder with TASK.jsonl; by default "traces" in the folder of the data.
    """
    import os
    import sys

    import kvsteer_lab as kv

    if zero_if_shard_done and shard is None:
        raise ValueError("--zero-if-shard-done says how a shard ends; pass --shard as well, or leave it out.")
    sizes = kv.replication.Sizes(
        pairs,
        shots,
        cells,
        dev,
        test,
        controls,
        control_test,
        uncached_test,
        measured,
        block,
        max_new_tokens,
    )
    done = kv.replicate(
        load_model(model, template),
        tasks,
        out,
        sizes=sizes,
        seed=seed,
        shard=shard,
        data_dir=data_dir,
        traces=traces,
        batch_size=batch_size,
        say=say_line,
        progress=not os.environ.get("TQDM_DISABLE"),
    )
    if not done.complete:
        say_line("Blocks are missing: run the other shards, or the same command without --shard.")
        sys.exit(0 if zero_if_shard_done else 3)
