"""How a forward pass takes its cache and gives it back: as `past_key_values` up to transformers 5.23, as `cache` since
5.24, where the old name is deprecated.
"""

from __future__ import annotations

import inspect
from typing import Any

from transformers import PreTrainedModel


def cache_argument(hf: PreTrainedModel) -> str:
    """The name under which the model's forward pass, and `generate`, take a cache.

    Args:
        hf: the model.

    Returns:
        `"cache"` or `"past_key_values"`.

    >>> import kvsteer_lab as kv
    >>> cache_argument(kv.load("tiny").hf) in ("cache", "past_key_values")
    True
    """
    if hasattr(hf, "peft_config") and hasattr(hf, "get_base_model"):
        hf = hf.get_base_model()  # an adapter's own forward pass hands all it doesn't know on to the model's
    return "cache" if "cache" in inspect.signature(type(hf).forward).parameters else "past_key_values"


def cache_of(output: Any) -> Any:
    """The cache in a forward pass's output; `None` if there is none.

    Args:
        output: what the model returned.

    Returns:
        Usually a `DynamicCache`.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> model = kv.load("tiny")
    >>> cache_of(model.hf(torch.tensor([[1, 2]]))).get_seq_length()
    2
    """
    for name in ("cache", "past_key_values"):
        if name in getattr(output, "__dataclass_fields__", {}):
            return getattr(output, name, None)
    return getattr(output, "past_key_values", None)
