"""`kvsteer extract`: from a task or a contrastive set to a file of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..models import load_model
from ..printing import say_line


def extract(
    out: Path,
    model: str = "tiny",
    template: str | None = None,
    task: str = "tiny-arithmetic",
    style: str = "stepwise",
    against: str = "direct",
    n: int = 100,
    shots: int = 5,
    select: Literal["random", "nearest", "shared"] = "random",
    encoder: str | None = None,
    max_prompt_tokens: int | None = None,
    seed: int = 0,
    keys: Literal["post_rope", "position_free"] = "post_rope",
    pairs: Path | None = None,
    traces: Path | None = None,
    batch_size: int = 16,
    data_dir: Path | None = None,
) -> None:
    """Extract steering vectors and write them to one safetensors file.

    Args:
        out: the file to write, ending in .safetensors.
        model: "tiny", "smollm2-135m", "gemma3-270m", a folder, a .gguf file or a hub id.
        template: for a base model, how a question is written: "Question: {q}\\nAnswer:".
        task: where the questions come from.
        style: how the positive examples answer.
        against: how the negative examples answer.
        n: number of contrastive pairs.
        shots: examples in each prompt.
        select: examples at random for each pair, those whose questions are nearest, or the same ones in all pairs,
            which are read once.
        encoder: for the nearest: a sentence-transformers model; by default TF-IDF.
        max_prompt_tokens: longer prompts get shorter or fewer examples.
        seed: which questions and examples.
        keys: as they are cached, or un-rotated before averaging.
        pairs: a saved contrastive set, instead of making one from the task.
        traces: replies to the task's questions, one JSON object a line, as `kvsteer traces` writes them.
        batch_size: prompts traced together.
        data_dir: folder with a benchmark's files.
    """
    import kvsteer_lab as kv

    from ..._util.files import check_writable

    if out.suffix != ".safetensors":
        raise ValueError(f"Vectors are written as safetensors, not to {out}; end --out in .safetensors.")
    if pairs is not None and traces is not None:
        raise ValueError("A contrastive set and traces can't both be extracted from; pass --pairs or --traces.")
    check_writable(out)
    loaded = load_model(model, template)
    if pairs is not None:
        chosen = kv.ContrastiveSet.load(pairs)
    else:
        source = kv.tasks.get(task, data_dir)
        chosen = kv.ContrastiveSet.few_shot(
            source if traces is None else kv.traces.with_traces(source, kv.traces.Traces.load(traces)),
            loaded.tokenizer,
            style=style,
            against=against,
            n=n,
            shots=shots,
            select=select,
            encoder=encoder,
            max_prompt_tokens=max_prompt_tokens,
            seed=seed,
        )
    path = kv.extract(loaded, chosen, batch_size=batch_size, keys=keys).save(out)
    say_line(
        f"Wrote {path}: vectors of {len(chosen)} pairs, {loaded.n_layers} layers, {loaded.n_kv_heads} KV heads of width"
        f" {loaded.head_dim}."
    )
