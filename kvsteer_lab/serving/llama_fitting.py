"""Whether a GGUF file in llama.cpp, the same model in transformers, and vectors belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..models.architectures import probe_cache
from ..models.fingerprint import fingerprint
from ..models.gguf import read_gguf
from ..models.model import Model
from .catalogue import NamedVectors
from .fitting import ServedModel, check_fit
from .llama_engine import LlamaEngine


def check_same_model(model: Model, engine: LlamaEngine, path: str | Path) -> None:
    """Refuse a file whose tokens, shapes or rotation aren't those of the model that tokenises its prompts.

    Args:
        model: as transformers has it; its weights aren't used.
        engine: with the file.
        path: the file, for messages.

    Raises:
        ValueError: they differ.
    """
    there = (engine.n_layers, engine.n_kv_heads, engine.head_dim)
    if there != (model.n_layers, model.n_kv_heads, model.head_dim) or engine.n_tokens != model.n_tokens:
        form = "{} layers, {} KV heads of width {}, {} tokens"
        raise ValueError(
            f"{path} has {form.format(*there, engine.n_tokens)}; {model.name} has"
            f" {form.format(model.n_layers, model.n_kv_heads, model.head_dim, model.n_tokens)}; give the file of"
            " the same model."
        )
    texts = engine.tokens()
    known = model.tokenizer.convert_ids_to_tokens(range(min(len(model.tokenizer), len(texts))))
    for token, text in enumerate(known):
        if text is not None and text.encode() != texts[token]:
            raise ValueError(
                f"Token {token} is {texts[token].decode(errors='replace')!r} in {path} and {text!r} in"
                f" {model.name}; give the file of the same model."
            )
    order_of_keys(model, engine)


def order_of_keys(model: Model, engine: LlamaEngine) -> list[int]:
    """Where each entry of a file's key stands in transformers' key: llama.cpp rotates neighbours in some architectures
    whose pairs are the two halves in transformers.

    Args:
        model: as transformers has it.
        engine: the same model in llama.cpp.

    Returns:
        `head_dim` places.

    Raises:
        ValueError: rotations that don't correspond.
    """
    modes, width = set(model.rotary.modes), engine.head_dim
    if modes == {"half"} and engine.rotates_neighbours:
        cos, _ = model.rotary.angles(torch.tensor([1]), 0, "half")
        if cos.shape[-1] == width:
            return [half * width // 2 + pair for pair in range(width // 2) for half in (0, 1)]
    elif modes in ({"none"}, {"interleaved"} if engine.rotates_neighbours else {"half"}):
        return list(range(width))
    raise ValueError(
        f"{model.name} rotates its keys in a way that llama.cpp's layout isn't known for; run it without backend=..."
    )


def check_file_fit(
    vectors: Mapping[str, NamedVectors], model: Model, path: Path, *, any_weights: bool, check_weights: bool
) -> list[str]:
    """Refuse vectors that can't belong to a file.

    Args:
        vectors: by name.
        model: the file's, without weights.
        path: the file.
        any_weights: serve vectors of other weights, too: those of the original under its quantised file.
        check_weights: load and dequantise the weights once, to compare fingerprints.

    Returns:
        What is doubtful, one sentence each.

    Raises:
        ValueError: as `check_fit`.
    """
    kind = model.hf.config.model_type
    if not check_weights:
        check_fit(vectors, ServedModel(path.name, kind, model.shape, model.n_tokens, model.fingerprint))
        return [f"The weights of {path.name} weren't compared with those that the vectors were extracted from."]
    hf, _ = read_gguf(path)
    served = ServedModel(path.name, kind, probe_cache(hf), model.n_tokens, fingerprint(hf))
    return check_fit(vectors, served, any_weights=any_weights)


def describe_precision(quantisation: str | None, cache: str) -> list[str]:
    """What the weights and the cache of a served file mean for its texts, one sentence each.

    Args:
        quantisation: of the weights, such as `"Q4_1"`; `None`: floats.
        cache: how keys and values are held.

    >>> describe_precision(None, "f32")
    []
    >>> describe_precision("Q4_1", "f32")
    ['Its weights are quantised (Q4_1): another model than the original, and texts differ from those of transformers.']
    """
    said = []
    if quantisation is not None:
        said.append(
            f"Its weights are quantised ({quantisation}): another model than the original, and texts differ from those"
            " of transformers."
        )
    if cache != "f32":
        said.append(f"Its cache holds {cache}: what is added is rounded to that, and texts may differ from float32.")
    return said
