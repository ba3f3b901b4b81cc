"""The command line: `kvsteer demo | extract | generate | info`, from the same functions as the library."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro


def demo(out: Path = Path("kvsteer-demo"), n: int = 100, controls: int = 40) -> None:
    """Run the main job end to end on the bundled model and say where the results are.

    Args:
        out: folder for vectors, results and figure.
        n: test questions.
        controls: random vectors to compare with.
    """
    from .demo import run_demo

    run_demo(out, n=n, controls=controls)


def extract(
    out: Path,
    model: str = "tiny",
    task: str = "tiny-arithmetic",
    style: str = "stepwise",
    against: str = "direct",
    n: int = 100,
    shots: int = 5,
    seed: int = 0,
    keys: Literal["post_rope", "position_free"] = "post_rope",
    pairs: Path | None = None,
    batch_size: int = 16,
    data_dir: Path | None = None,
) -> None:
    """Extract steering vectors and write them to one safetensors file.

    Args:
        out: the file to write, ending in .safetensors.
        model: "tiny", a folder or a hub id.
        task: where the questions come from.
        style: how the positive examples answer.
        against: how the negative examples answer.
        n: number of contrastive pairs.
        shots: examples in each prompt.
        seed: which questions and examples.
        keys: as they are cached, or un-rotated before averaging.
        pairs: a saved contrastive set, instead of making one from the task.
        batch_size: prompts traced together.
        data_dir: folder with a benchmark's files.
    """
    import kvsteer_lab as kv

    loaded = kv.load(model)
    if pairs is not None:
        chosen = kv.ContrastiveSet.load(pairs)
    else:
        chosen = kv.ContrastiveSet.few_shot(kv.tasks.get(task, data_dir), loaded.tokenizer, style=style, against=against, n=n, shots=shots, seed=seed)
    path = kv.extract(loaded, chosen, batch_size=batch_size, keys=keys).save(out)
    print(f"Wrote {path}: vectors of {len(chosen)} pairs, {loaded.n_layers} layers, {loaded.n_kv_heads} KV heads of width {loaded.head_dim}.")


def generate(
    prompt: Annotated[str, tyro.conf.Positional],
    vectors: Path | None = None,
    ck: float | None = None,
    cv: float | None = None,
    model: str = "tiny",
    layers: tuple[int, ...] | None = None,
    max_new_tokens: int = 128,
) -> None:
    """Answer a prompt, steered if vectors are given, as the text is generated.

    Args:
        prompt: the user's message.
        vectors: a file, folder or hub repository with steering vectors.
        ck: coefficient of the keys; needed with vectors.
        cv: coefficient of the values; needed with vectors.
        model: "tiny", a folder or a hub id.
        layers: exactly these layers; by default 1 and above.
        max_new_tokens: where to cut.
    """
    import kvsteer_lab as kv

    if vectors is not None and (ck is None or cv is None):
        raise ValueError("Steering needs both coefficients; pass --ck and --cv.")
    if vectors is None and (ck is not None or cv is not None or layers is not None):
        raise ValueError("--ck, --cv and --layers do nothing without vectors; pass --vectors.")
    intervention = None
    if vectors is not None and ck is not None and cv is not None:
        intervention = kv.CacheSteering(kv.KVVectors.load(vectors), ck, cv, layers=layers)
    for piece in kv.stream(kv.load(model), prompt, intervention, generation={"max_new_tokens": max_new_tokens}):
        print(piece, end="", flush=True)
    print()


def info(source: Annotated[str, tyro.conf.Positional]) -> None:
    """Tell what a vectors file, a contrastive set or a model is.

    Args:
        source: a .safetensors or .jsonl file, a .parquet file of results, "tiny", a folder or a hub id.
    """
    import dataclasses

    import kvsteer_lab as kv

    path = Path(source)
    if path.suffix == ".jsonl":
        print(kv.ContrastiveSet.load(path))
    elif path.suffix == ".parquet":
        results = kv.Results.load(path)
        print(*(f"{k}: {v}" for k, v in results.settings.items()), sep="\n")
        print(results.summary().to_string(float_format=lambda x: f"{x:.3g}"))
    elif path.suffix == ".safetensors" or (path / "vectors.safetensors").is_file():
        vectors = kv.KVVectors.load(source)
        for name, value in dataclasses.asdict(vectors.card).items():
            shown = {k: v for k, v in value.items() if k != "questions"} if isinstance(value, dict) else value
            print(f"{name}: {shown}")
        print(vectors.norms().to_string(index=False, float_format=lambda x: f"{x:.3g}"))
    else:
        model = kv.load(source)
        windows = sorted({w for w in model.shape.windows if w is not None})
        print(f"{model.name}: can be steered")
        print(f"architecture: {model.model_type}, {model.n_layers} layers, {model.n_kv_heads} KV heads of width {model.head_dim}, context {model.context}")
        print(f"dtype: {model.dtype}, device: {model.device}, fingerprint: {model.fingerprint}")
        if windows:
            print(f"note: some layers forget the steered slot after {windows[0] - 1} more tokens (sliding window)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `kvsteer`. Bad input ends with one line and exit code 1, Ctrl-C with 130."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"demo": demo, "extract": extract, "generate": generate, "info": info},
            prog="kvsteer",
            args=arguments,
            description="KV cache steering: extract, inject, evaluate.",
        )
    except (ValueError, OSError) as error:
        sys.exit(f"kvsteer: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

if __name__ == "__main__":
    main()
