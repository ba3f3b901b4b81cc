"""`kvsteer serve`: an OpenAI-compatible server whose requests name vectors and coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Annotated, Literal

import tyro

from ..._util.extras import import_extra
from ..printing import say_error, say_line


def serve(
    model: Annotated[str, tyro.conf.Positional],
    flags: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    /,
    vectors: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    limit: float = 64.0,
    body_mb: int = 16,
    any_weights: bool = False,
    check_weights: bool = True,
    dry_run: bool = False,
    backend: Literal["vllm", "llama.cpp"] = "vllm",
    host: str = "127.0.0.1",
    port: int = 8000,
    context: int = 2048,
    cache: Literal["f32", "f16"] = "f32",
    threads: int | None = None,
) -> None:
    """Serve a model with vLLM; a request's "kv_steering": {"vectors": NAME, "ck": 0, "cv": 4} steers it.

    Prints the equivalent vLLM command and becomes it. Without --host after the "--" only this machine can reach it;
    --api-key is vLLM's own. With --backend llama.cpp it serves a GGUF file, one sequence at a time; clients need the
    key in KVSTEER_API_KEY, if there is one.

    Args:
        model: "smollm2-135m", "gemma3-270m", a folder or a hub id; for llama.cpp a GGUF file.
        flags: vLLM's own flags, after "--": -- --port 8001 --max-model-len 4096.
        vectors: NAME=FILE.safetensors, once for each; requests use the name.
        limit: the largest coefficient that a request may ask for, either sign.
        body_mb: the largest request, in MB.
        any_weights: serve vectors that were extracted from other weights of the same shape, too.
        check_weights: load the weights first to compare fingerprints; --no-check-weights leaves that to the engine's
            check of shapes.
        dry_run: print vLLM's command and stop.
        backend: vLLM, or llama.cpp, which takes the options below. vLLM's own flags say the same after "--".
        host: where llama.cpp's server listens; beyond this machine only with a key.
        port: of llama.cpp's server.
        context: tokens of prompt and reply together.
        cache: how llama.cpp holds keys and values.
        threads: of llama.cpp; by default one a core.
    """
    import os
    from importlib.util import find_spec

    from ...serving.catalogue import Catalogue
    from ...serving.launch import build_command, check_flags, locate_model, read_pairs, show_command

    own = dict(host=host, port=port, context=context, cache=cache, threads=threads)
    check_backend_options(backend, own, flags, dry_run)
    check_flags(flags)
    catalogue = Catalogue.load(read_pairs(vectors), limit, body_mb)
    if backend == "llama.cpp":
        for package in ("starlette", "uvicorn"):
            import_extra(package, "llama-cpp")
        from ...serving.llama_launch import FileServer

        options = dict(any_weights=any_weights, check_weights=check_weights)
        FileServer(model, host, port, context, cache, threads, **options).run(catalogue, say_error)
        return
    folder = locate_model(model)
    if check_weights:
        from ...serving.fitting import check_fit, read_served_model

        for doubt in check_fit(catalogue.vectors, read_served_model(folder), any_weights=any_weights):
            say_error(f"kvsteer: {doubt}")
    environment, words = build_command(folder, catalogue, flags)
    say_line(show_command(environment, words))
    if dry_run:
        return
    if find_spec("vllm") is None:
        raise ValueError(
            'vLLM isn\'t installed here; get it with `pip install "kvsteer-lab[vllm]"`, in an environment of its own.'
        )
    os.execve(words[0], words, {**os.environ, **environment})


def check_backend_options(backend: str, own: Mapping[str, object], flags: Sequence[str], dry_run: bool) -> None:
    """Refuse one server's options with the other.

    Args:
        backend: which is started.
        own: llama.cpp's options.
        flags: vLLM's.
        dry_run: prints vLLM's command.

    Raises:
        ValueError: such an option; the message names it.
    """
    if backend == "llama.cpp" and (flags or dry_run):
        what = flags[0] if flags else "--dry-run"
        raise ValueError(f"{what} is for vLLM; with --backend llama.cpp leave it out.")
    parameters = signature(serve).parameters
    changed = [name for name, value in own.items() if value != parameters[name].default]
    if backend == "vllm" and changed:
        raise ValueError(f"--{changed[0]} is for llama.cpp; write vLLM's own flag after --, as in `-- --port 8001`.")
