"""`kvsteer generate`: one prompt, answered as the text comes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ..backends import load_model_and_backend
from ..printing import say_line, say_text


def generate(
    prompt: Annotated[str, tyro.conf.Positional],
    vectors: Path | None = None,
    ck: float | None = None,
    cv: float | None = None,
    model: str = "tiny",
    template: str | None = None,
    chat: bool = True,
    layers: tuple[int, ...] | None = None,
    max_new_tokens: int = 128,
    backend: str | None = None,
) -> None:
    """Answer a prompt, steered if vectors are given, as the text is generated; a backend's text comes at its end.

    Args:
        prompt: the user's message.
        vectors: a file, folder or hub repository with steering vectors.
        ck: coefficient of the keys; needed with vectors.
        cv: coefficient of the values; needed with vectors.
        model: "tiny", "smollm2-135m", "gemma3-270m", a folder, a .gguf file or a hub id.
        template: for a base model, how a question is written: "Question: {q}\\nAnswer:".
        chat: whether the chat template renders the prompt; --no-chat takes it verbatim, special tokens such as <bos>
            included.
        layers: exactly these layers; by default 1 and above.
        max_new_tokens: where to cut.
        backend: what decodes in place of transformers: vllm, server:URL (which has the vectors under their file's name,
            "s" for s.safetensors), llama.cpp:FILE.gguf.
    """
    import kvsteer_lab as kv

    if vectors is not None and (ck is None or cv is None):
        raise ValueError("Steering needs both coefficients; pass --ck and --cv.")
    if vectors is None and (ck is not None or cv is not None or layers is not None):
        raise ValueError("--ck, --cv and --layers do nothing without vectors; pass --vectors.")
    intervention, own, generation = None, None, {"max_new_tokens": max_new_tokens}
    if vectors is not None and ck is not None and cv is not None:
        own = kv.KVVectors.load(vectors)
        intervention = kv.CacheSteering(own, ck, cv, layers=layers)
    loaded, decoder = load_model_and_backend(model, template, backend, vectors, own)
    if decoder is not None:
        (text,) = kv.generate(loaded, prompt, intervention, chat=chat, generation=generation, backend=decoder).texts
        say_line(text)
        return
    for piece in kv.stream(loaded, prompt, intervention, chat=chat, generation=generation):
        say_text(piece, end="")
    say_line("")
