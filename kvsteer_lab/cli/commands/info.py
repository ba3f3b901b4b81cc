"""`kvsteer info`: what a file or a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ..printing import say_line, say_text


def info(source: Annotated[str, tyro.conf.Positional]) -> None:
    """Tell what a vectors file, a contrastive set, a file of traces or a model is.

    Args:
        source: a .safetensors or .jsonl file, a .parquet file of results, the folder of a run, "tiny" or another
            model's name, another folder, a .gguf file, or a hub id.
    """
    import dataclasses

    import kvsteer_lab as kv

    from ...tasks.traces.journal import holds_traces

    path = Path(source)
    if path.suffix == ".jsonl":
        say_line(kv.traces.Traces.load(path) if holds_traces(path) else kv.ContrastiveSet.load(path))
    elif path.suffix == ".parquet" or (path / "rows").is_dir():
        results = kv.Results.load(path)
        say_line(*(f"{k}: {v}" for k, v in results.settings.items()), f"complete: {results.complete}")
        say_text(kv.readable(results.summary()).to_string())
    elif path.suffix == ".safetensors" or (path / "vectors.safetensors").is_file():
        vectors = kv.KVVectors.load(source)
        for name, value in dataclasses.asdict(vectors.card).items():
            shown = {k: v for k, v in value.items() if k != "questions"} if isinstance(value, dict) else value
            say_line(f"{name}: {shown}")
        say_text(kv.readable(vectors.norms()).to_string(index=False))
    else:
        model = kv.load(source)
        windows = sorted({w for w in model.shape.windows if w is not None})
        say_line(f"{model.name}: can be steered")
        say_line(
            f"architecture: {model.model_type}, {model.n_layers} layers, {model.n_kv_heads} KV heads of width"
            f" {model.head_dim}, context {model.context}"
        )
        say_line(f"dtype: {model.dtype}, device: {model.device}, fingerprint: {model.fingerprint}")
        if model.quantised:
            say_line(f"weights: quantised before they were loaded as floats ({model.quantised})")
        if windows:
            say_line(f"note: some layers forget the steered slot after {windows[0] - 1} more tokens (sliding window)")
