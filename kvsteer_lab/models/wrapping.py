"""A loaded transformers model made ready to be traced: its modules copied, its weights shared, nnsight around them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, cast

from nnsight import Envoy, NNsight, TransformersModel
from torch import nn
from transformers import Pipeline, PreTrainedModel

from .architectures import UnsteerableModelError, probe_cache
from .lock import locked
from .model import Model

_OWN = ("transformers", "accelerate", "torch", "nnsight", "peft", "bitsandbytes", "optimum", "kvsteer_lab")
"""Packages whose hooks belong to a loaded model."""


@locked
def wrap(hf: PreTrainedModel, tokenizer: Any, name: str, source: nn.Module | None = None) -> Model:
    """Put nnsight around a module tree of its own, so that decoding runs the plain model.

    Args:
        hf: the model that decodes; it is put into evaluation mode.
        tokenizer: the model's, or `None`.
        name: what the model is called.
        source: the caller's model that `hf` shares its weights with, if there is one; its adapters are watched.

    Raises:
        UnsteerableModelError: its cache can't be steered.

    >>> import kvsteer_lab as kv
    >>> wrap(kv.load("tiny").hf, None, "mine").n_layers
    4
    """
    if hf.get_output_embeddings() is None and not hasattr(hf, "lm_head"):
        raise UnsteerableModelError(
            f"{type(hf).__name__} has no output layer that gives next-token logits; load it with AutoModelForCausalLM."
        )
    hf.eval()
    shape = probe_cache(hf)
    view = share_weights(hf)
    traced = (
        NNsight(view)
        if tokenizer is None
        else TransformersModel(view, task="text-generation", tokenizer=copy.deepcopy(tokenizer))
    )
    return Model(hf, traced, tokenizer, name, shape, tuple(_adapters(source, hf)))


def share_weights(module: PreTrainedModel) -> PreTrainedModel:
    """A copy of the module tree that holds the same parameter and buffer tensors: no memory, no side effects.

    Args:
        module: what is copied.

    Returns:
        The copy.

    >>> import kvsteer_lab as kv
    >>> hf = kv.load("tiny").hf
    >>> copied = share_weights(hf)
    >>> copied is hf, copied.lm_head.weight is hf.lm_head.weight
    (False, True)
    """
    tensors: Mapping[int, Any] = {id(t): t for t in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, dict(tensors))


def without_peft(module: Any) -> PreTrainedModel:
    """The transformers model inside a PEFT model, adapter layers included; others as they are.

    Args:
        module: what the caller loaded.

    Returns:
        The same object, or the one inside it.

    Raises:
        UnsteerableModelError: an adapter that writes into the cache, or something that is not a transformers model.

    >>> import kvsteer_lab as kv
    >>> hf = kv.load("tiny").hf
    >>> without_peft(hf) is hf
    True
    """
    if hasattr(module, "peft_config") and hasattr(module, "get_base_model"):
        if module.active_peft_config.is_prompt_learning:
            raise UnsteerableModelError(
                "A prompt-learning adapter writes into the cache itself; merge it or load the base model."
            )
        module = module.get_base_model()  # the adapter's layers live inside it
    if not isinstance(module, PreTrainedModel):
        raise UnsteerableModelError(
            f"{type(module).__name__} is not a transformers model; load it with AutoModelForCausalLM."
        )
    return module


def unpack(source: Any, tokenizer: Any) -> tuple[Any, Any]:
    """The model and the tokenizer inside a pipeline, an nnsight model or one of `kv.load`; others as they are.

    Args:
        source: what the caller loaded.
        tokenizer: the caller's; it goes first.

    Returns:
        The model and the tokenizer.

    >>> import kvsteer_lab as kv
    >>> model = kv.load("tiny")
    >>> unpack(model.hf, model.tokenizer)[0] is model.hf
    True
    """
    if isinstance(source, Model):
        return source.hf, source.tokenizer if tokenizer is None else tokenizer
    if isinstance(source, Pipeline):
        return source.model, source.tokenizer if tokenizer is None else tokenizer
    if isinstance(source, Envoy):
        own = getattr(source, "tokenizer", None)
        return source._module, own if tokenizer is None else tokenizer
    return source, tokenizer


def refuse_hooks(module: nn.Module) -> None:
    """Refuse a model with hooks of other code on it: they would be copied, and go on acting after they were removed.

    Args:
        module: the caller's model.

    Raises:
        UnsteerableModelError: the hook's owner and place.

    >>> import kvsteer_lab as kv
    >>> refuse_hooks(kv.load("tiny").hf)
    """
    for name, part in module.named_modules():
        for hook in chain(part._forward_hooks.values(), part._forward_pre_hooks.values()):
            function = getattr(hook, "func", hook)  # inside a functools.partial
            home = str(getattr(function, "__module__", type(function).__module__) or "")
            if home.split(".")[0] not in _OWN:
                raise UnsteerableModelError(
                    f"There is a forward hook of {home or 'other code'} on {name or 'the model'}: what it does would"
                    " be part of every result; remove it (handle.remove()) before the model is loaded."
                )


def _adapters(source: nn.Module | None, hf: PreTrainedModel) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """The caller's adapter layers, each with the adapters that are merged into its weights now."""
    for module in source.modules() if source is not None else ():
        if hasattr(module, "merged_adapters"):
            yield module, tuple(cast(Any, module).merged_adapters)
