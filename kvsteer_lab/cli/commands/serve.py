"""`kvsteer serve`: an OpenAI-compatible server whose requests name vectors and coefficients."""

from __future__ import annotations

from typing import Annotated

import tyro

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
) -> None:
    """Serve a model with vLLM; a request's "kv_steering": {"vectors": NAME, "ck": 0, "cv": 4} steers it.

    Prints the equivalent vLLM command and becomes it. Without --host after the "--" only this machine can reach it;
    --api-key is vLLM's own.

    Args:
        model: "smollm2-135m", "gemma3-270m", a folder or a hub id.
        flags: vLLM's own flags, after "--": -- --port 8001 --max-model-len 4096.
        vectors: NAME=FILE.safetensors, once for each; requests use the name.
        limit: the largest coefficient that a request may ask for, either sign.
        body_mb: the largest request, in MB.
        any_weights: serve vectors that were extracted from other weights of the same shape, too.
        check_weights: load the weights first to compare fingerprints; --no-check-weights leaves that to the engine's
            check of shapes.
        dry_run: print the command and stop.
    """
    import os
    from importlib.util import find_spec

    from ...serving.catalogue import Catalogue
    from ...serving.launch import build_command, check_flags, locate_model, read_pairs, show_command

    check_flags(flags)
    catalogue = Catalogue.load(read_pairs(vectors), limit, body_mb)
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
