"""What decodes, as a command names it, and the model that goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .models import load_model

if TYPE_CHECKING:  # commands start without torch
    from ..generation.backend import Backend
    from ..models.model import Model
    from ..vectors.kv import KVVectors


def load_model_and_backend(
    model: str, template: str | None, backend: str | None, vectors: Path | None, own: KVVectors | None
) -> tuple[Model, Backend | None]:
    """The model that a command names, and what decodes in its place: then it needs no weights here.

    Args:
        model, template: as `load_model` takes them.
        backend: "vllm", "server:URL", "llama.cpp:FILE.gguf"; `None`: transformers in this process.
        vectors: the file of `own`; its name without ending is what a server is asked for.
        own: what steers.

    Raises:
        ValueError: another text, or as `kv.load`.

    >>> load_model_and_backend("tiny", None, "server:http://127.0.0.1:8000", None, None)[1].url
    'http://127.0.0.1:8000'
    >>> load_model_and_backend("tiny", None, "ollama", None, None)
    Traceback (most recent call last):
    ValueError: 'ollama' is no backend; write vllm, server:URL or llama.cpp:FILE.gguf, or leave --backend out.
    """
    import kvsteer_lab as kv

    if backend is None:
        return load_model(model, template), None
    kind, _, where = backend.partition(":")
    found: Backend
    if kind == "vllm" and not where:
        found = kv.backends.VLLM(model)
    elif kind == "server" and where:
        found = kv.backends.Server(where, {} if vectors is None or own is None else {vectors.stem: own})
    elif kind == "llama.cpp" and where:
        found = kv.backends.LlamaCpp(where)
    else:
        raise ValueError(
            f"{backend!r} is no backend; write vllm, server:URL or llama.cpp:FILE.gguf, or leave --backend out."
        )
    plain = None if template is None else kv.PlainTemplate(template.replace("\\n", "\n"))
    return kv.load_weightless(model, template=plain), found
