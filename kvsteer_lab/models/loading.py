"""Loading a model, or saying why it can't be steered."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from nnsight import NNsight, TransformersModel
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from .architectures import UnsteerableModelError, probe_cache, refuse_by_config
from .model import Model

BUNDLED = ("tiny", "tiny-control")


"""The models that ship with the package."""


def load(
    source: str | Path | nn.Module,
    tokenizer: Any = None,
    *,
    device_map: Any = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model that can be steered, or say why it can't be.

    Args:
        source: `"tiny"` or `"tiny-control"`, a folder, a hub id, or a loaded transformers (or PEFT) model, which is
            left as it is: its weights are shared, its modules are not.
        tokenizer: for a loaded model; by default the one of the checkpoint it came from.
        device_map: as in transformers; by default the GPU if there is one.
        dtype: by default float32 for the bundled models, the checkpoint's own for others.
        attn_implementation: as in transformers.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the checkpoint. Only if you trust it.

    Raises:
        ValueError: nothing is found under that name, or a loaded model comes without a tokenizer.
        UnsteerableModelError: its cache can't be steered; the message says why.
    """
    if isinstance(source, nn.Module):
        hf = share_weights(without_peft(source))
        refuse_by_config(hf.config)
        origin = str(getattr(hf.config, "_name_or_path", "") or hf.config.model_type)
        return wrap(hf, tokenizer if tokenizer is not None else _tokenizer_of(origin), origin)
    name = str(source)
    path = str(files(__package__) / "bundled" / name) if name in BUNDLED else name
    if name in BUNDLED and dtype is None:
        dtype = torch.float32
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"The folder {path} holds no config.json; give a folder written by save_pretrained.")
    origin_arguments: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        refuse_by_config(AutoConfig.from_pretrained(path, **origin_arguments))
        with _silent() if name in BUNDLED else nullcontext():
            hf = AutoModelForCausalLM.from_pretrained(
                path,
                device_map=device_map if device_map is not None else ("cuda" if torch.cuda.is_available() else None),
                dtype="auto" if dtype is None else dtype,
                attn_implementation=attn_implementation,
                use_safetensors=True,
                **origin_arguments,
            )
        tokenizer = tokenizer if tokenizer is not None else AutoTokenizer.from_pretrained(path, **origin_arguments)
    except UnsteerableModelError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        known = " or ".join(f"{b!r}" for b in BUNDLED)
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"Cannot load {name!r}: {first_line.rstrip(' .:')}. Give {known}, a folder written by save_pretrained, or a"
            " hub id."
        ) from error
    return wrap(hf, tokenizer, name)


@contextmanager
def _silent() -> Iterator[None]:
    """No progress bar for what loads in a blink."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def wrap(hf: PreTrainedModel, tokenizer: Any, name: str) -> Model:
    """Put nnsight around a module tree of its own, so that decoding runs the plain model."""
    hf.eval()
    shape = probe_cache(hf)
    view = share_weights(hf)
    traced = (
        NNsight(view)
        if tokenizer is None
        else TransformersModel(view, task="text-generation", tokenizer=copy.deepcopy(tokenizer))
    )
    return Model(hf, traced, tokenizer, name, shape)


def share_weights(module: PreTrainedModel) -> PreTrainedModel:
    """A copy of the module tree that holds the same parameter and buffer tensors: no memory, no side effects."""
    tensors: Mapping[int, Any] = {id(t): t for t in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, dict(tensors))


def without_peft(module: Any) -> PreTrainedModel:
    if hasattr(module, "peft_config") and hasattr(module, "get_base_model"):
        if module.active_peft_config.is_prompt_learning:
            raise UnsteerableModelError(
                "A prompt-learning adapter writes into the cache itself; merge it or load the base model."
            )
        module = module.get_base_model()  # the adapter's layers live inside it
    if not isinstance(module, PreTrainedModel):
        raise UnsteerableModelError(
            f"{type(module).__name__} is no transformers model; load it with AutoModelForCausalLM."
        )
    return module


def _tokenizer_of(origin: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(origin)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"No tokenizer was given and none is found under {origin!r}; pass"
            " tokenizer=AutoTokenizer.from_pretrained(...)."
        ) from error
