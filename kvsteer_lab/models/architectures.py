"""What can be steered: models that cache plain keys and values, one pair a layer, all of one shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .caches import cache_of
from .lock import locked

STEERABLE_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)
"""Cache layers that hold plain keys and values. Compared by exact type: a quantised layer is a subclass."""

_REMEDY = (
    "Choose a decoder-only transformer that caches plain keys and values, such as Llama, Qwen, Mistral or Gemma 2."
)


class UnsteerableModelError(ValueError):
    """The model's cache can't be steered; the message says why."""


@dataclass(frozen=True)
class CacheShape:
    """What one forward pass shows of a model's cache.

    Attributes:
        n_layers: layers with a cache of their own.
        n_kv_heads: heads as they are *stored* (Falcon stores all of them, whatever its config says).
        head_dim: width of one head's key and value.
        windows: per layer, the sliding window in tokens, or `None` for full attention.
    """

    n_layers: int
    n_kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]


def refuse_by_config(config: Any) -> None:
    """Refuse what the config alone gives away, before any weight is touched.

    Raises:
        UnsteerableModelError: encoder-decoders, latent attention (MLA), state-space and hybrid models,
            layers that share keys and values.
    """
    name = getattr(config, "model_type", type(config).__name__)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    kinds = set(getattr(text, "layer_types", None) or ()) | set(getattr(text, "layers_block_type", None) or ())
    foreign = sorted(k for k in kinds if "attention" not in k or "linear" in k)
    reason = None
    if getattr(config, "is_encoder_decoder", False):
        reason = "it is an encoder-decoder, whose prompt lies in another cache than its answer"
    elif getattr(text, "kv_lora_rank", None):
        reason = "it caches a compressed latent instead of keys and values (multi-head latent attention, kv_lora_rank)"
    elif foreign:
        reason = f"some of its layers keep a recurrent state instead of keys and values ({', '.join(foreign)})"
    elif hasattr(text, "state_size") and not hasattr(text, "num_attention_heads"):
        reason = "it is a state-space model and caches no keys and values"
    elif getattr(text, "num_kv_shared_layers", 0):
        reason = f"{text.num_kv_shared_layers} of its layers share the keys and values of others (num_kv_shared_layers)"
    if reason:
        raise UnsteerableModelError(f"{name} can't be steered: {reason}. {_REMEDY}")


@locked
@torch.no_grad()
def probe_cache(hf: PreTrainedModel) -> CacheShape:
    """Run three tokens and look at the cache that comes back.

    Args:
        hf: the model that runs.

    Returns:
        The cache's shape.

    Raises:
        UnsteerableModelError: no cache, a layer of another kind, or layers of different shapes.
    """
    name = getattr(hf.config, "model_type", type(hf).__name__)
    device = hf.get_input_embeddings().weight.device
    try:
        output = hf(input_ids=torch.tensor([[1, 2, 3]], device=device), use_cache=True)
    except TypeError as error:
        raise UnsteerableModelError(
            f"{name} can't be steered: its forward pass takes no use_cache ({error}). {_REMEDY}"
        ) from error
    cache = cache_of(output)
    layers = getattr(cache, "layers", None)
    if not layers:
        raise UnsteerableModelError(f"{name} can't be steered: its forward pass returns no key/value cache. {_REMEDY}")
    for index, layer in enumerate(layers):
        if type(layer) not in STEERABLE_LAYERS:
            kind = type(layer).__name__
            raise UnsteerableModelError(
                f"{name} can't be steered: layer {index} caches a {kind}, not plain keys and values. {_REMEDY}"
            )
    shapes = {(tuple(x.keys.shape[1::2]), tuple(x.values.shape[1::2])) for x in layers if x.keys is not None}
    if any(x.keys is None for x in layers) or len(layers) != getattr(
        _text_config(hf), "num_hidden_layers", len(layers)
    ):
        raise UnsteerableModelError(
            f"{name} can't be steered: some of its layers have no keys and values of their own. {_REMEDY}"
        )
    if len(shapes) > 1 or len({shape for pair in shapes for shape in pair}) > 1:
        raise UnsteerableModelError(
            f"{name} can't be steered: its layers' keys and values differ in shape ({sorted(shapes)}). {_REMEDY}"
        )
    heads, width = next(iter(shapes))[0]
    windows = tuple(
        getattr(x, "sliding_window", None) if type(x) is DynamicSlidingWindowLayer else None for x in layers
    )
    return CacheShape(len(layers), heads, width, windows)


def _text_config(hf: PreTrainedModel) -> Any:
    return hf.config.get_text_config(decoder=True)
