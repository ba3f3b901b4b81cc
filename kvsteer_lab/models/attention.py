"""A handle on attention: see what every head reads and writes while the plain model runs, and bar heads from reading a
slot.

transformers lets an attention function be registered by name. It is called after RoPE, with the keys and values of the
cache, by every architecture that goes through this interface. Ours calls the architecture's own eager function, so
soft-capping, sinks, scaling and windows stay
what they are, and stands on both sides of it: before, slots may be masked; after, weights and outputs may be seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from .architectures import UnsteerableModelError
from .lock import LOCK

_NAME = "kvsteer_lab"


_EAGER = "eager_attention_forward"  # what each of transformers' modelling files calls its own


@dataclass(frozen=True, eq=False)
class Attention:
    """One layer's attention in one forward pass.

    Attributes:
        layer: which layer, counted from 0.
        query: `[rows, heads, time, head_dim]`, after RoPE.
        keys, values: `[rows, kv_heads, slots, head_dim]`, as they are in the cache; a sliding-window layer holds its
            last slots only.
        weights: `[rows, heads, time, slots]`; they sum to 1, or to less where the model has attention sinks.
        outputs: `[rows, heads, time, head_dim]`, what each head hands to the output projection.
        readable: `[rows, heads or 1, time, slots]`, which slots a query may read: none of its future, of padding,
            outside of its window, or hidden.
        column: the batch's column (padding counted) that the first query is in.
    """

    layer: int
    query: Float[Tensor, "rows heads time head_dim"]
    keys: Float[Tensor, "rows kv_heads slots head_dim"]
    values: Float[Tensor, "rows kv_heads slots head_dim"]
    weights: Float[Tensor, "rows heads time slots"]
    outputs: Float[Tensor, "rows heads time head_dim"]
    readable: Bool[Tensor, "rows some time slots"]
    column: int
    _again: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def slot_of(self, column: int) -> int:
        """Where a column of the batch is among the slots; negative: the window has moved past it."""
        return column - (self.column + self.query.shape[2] - self.keys.shape[2])

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Float[Tensor, "rows heads time head_dim"], Float[Tensor, "rows heads time slots"]]:
        """Outputs and weights of the same attention (masks, scaling and all) for other queries, keys or values."""
        return self._again(query, keys, values)


class Attending:
    """A context in which the plain model's attention goes through our function. The default sees and hides nothing: a
    subclass overrides one of the two.

    It may be entered again and again, around single forward passes or a whole `generate`, and inside another one.
    Columns are counted on from pass to pass. On leaving, also through an error or Ctrl-C, the model computes attention
    as before. The library's lock is held while it is entered.

    Args:
        hf: the model that runs.
        start: the first column that is read.

    Raises:
        UnsteerableModelError: the model's attention doesn't go through the interface.
    """

    def __init__(self, hf: PreTrainedModel, start: int) -> None:
        self.layers = {module: layer for layer, module in enumerate(attention_modules(hf))}
        self._next = dict.fromkeys(self.layers.values(), start)
        self._installed = _Installed(hf)

    def __enter__(self) -> Attending:
        LOCK.__enter__()
        try:
            self._installed.__enter__()
        except BaseException:
            LOCK.__exit__(None, None, None)
            raise
        _ACTIVE.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _ACTIVE.remove(self)
            self._installed.__exit__(kind, error, trace)
        finally:
            LOCK.__exit__(kind, error, trace)

    def hide(self, layer: int, column: int, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """The mask, `[rows, 1 or heads, time, slots]`, with what else shall not be read."""
        return mask

    def see(self, attention: Attention) -> None:
        """Look at one layer in one forward pass."""

    def advance(self, layer: int, time: int) -> int:
        """The column at which a pass of `time` queries begins in this layer; the next one begins after it."""
        start = self._next[layer]
        self._next[layer] += time
        return start


class Watching(Attending):
    """Hands every layer of every forward pass to a function."""

    def __init__(self, hf: PreTrainedModel, start: int, look: Callable[[Attention], None]) -> None:
        super().__init__(hf, start)
        self._look = look

    def see(self, attention: Attention) -> None:
        self._look(attention)


def attention_modules(hf: PreTrainedModel) -> tuple[nn.Module, ...]:
    """The modules that call the attention function, in the order of the layers. Errors are those of `query_heads`."""
    return _look_into(hf)[0]


def query_heads(hf: PreTrainedModel) -> int:
    """Query heads in each layer; those of equal `head // (heads / kv_heads)` read the same KV head.

    Raises:
        UnsteerableModelError: not one attention module a layer goes through the interface, or their heads differ in
            number.
    """
    return _look_into(hf)[1]


def _look_into(hf: PreTrainedModel) -> tuple[tuple[nn.Module, ...], int]:
    """Attention modules and query heads a layer, found by a forward pass over two tokens; remembered as long as the
    model lives.
    """
    if hf not in _SEEN:
        found: list[tuple[nn.Module, int]] = []
        with LOCK, torch.no_grad(), _Installed(hf):
            _PROBES.append(found)
            try:
                hf(input_ids=torch.tensor([[1, 2]], device=hf.get_input_embeddings().weight.device), use_cache=False)
            finally:
                _PROBES.pop()
        if len(found) != int(hf.config.get_text_config(decoder=True).num_hidden_layers) or any(
            _own(module) is None for module, _ in found
        ):
            raise UnsteerableModelError(
                f"The attention of {hf.config.model_type} can't be looked into: its layers compute it in code of their"
                " own and not through transformers' attention interface; use a model that does, such as Llama, Qwen,"
                " Mistral, Gemma or GPT-2."
            )
        heads = {n for _, n in found}
        if len(heads) > 1:
            numbers = " and ".join(map(str, sorted(heads)))
            raise UnsteerableModelError(
                f"The attention of {hf.config.model_type} can't be looked into: its layers differ in their query heads"
                f" ({numbers})."
            )
        _SEEN[hf] = (tuple(module for module, _ in found), heads.pop())
    return _SEEN[hf]


class _Installed:
    """The model's configs name our function; afterwards what they named before."""

    def __init__(self, hf: PreTrainedModel) -> None:
        # parents come before their parts, so setting them in this order leaves each with its own
        self._configs = list({id(m.config): m.config for m in hf.modules() if hasattr(m, "config")}.values())
        self._before: list[list[str | None]] = []

    def __enter__(self) -> None:
        self._before.append([config._attn_implementation for config in self._configs])
        for config in self._configs:
            config._attn_implementation = _NAME

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for config, name in zip(self._configs, self._before.pop(), strict=True):
            config._attn_implementation = name


_ACTIVE: list[Attending] = []


_PROBES: list[list[tuple[nn.Module, int]]] = []


_SEEN: WeakKeyDictionary[nn.Module, tuple[tuple[nn.Module, ...], int]] = WeakKeyDictionary()


def _own(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The eager attention function of the file that defines the module's class, or the class that it is derived
    from.
    """
    files = (sys.modules.get(kind.__module__) for kind in type(module).__mro__)
    return next((getattr(file, _EAGER) for file in files if hasattr(file, _EAGER)), None)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, Tensor]:
    own = _own(module)
    for probe in _PROBES:
        probe.append((module, query.shape[1]))
    if own is None or attention_mask is None:
        raise UnsteerableModelError(
            f"{type(module).__name__} calls transformers' attention interface without a mask or an eager function to"
            " fall back on."
        )
    active = [(handle, handle.layers[module]) for handle in _ACTIVE if module in handle.layers]
    columns = [handle.advance(layer, query.shape[2]) for handle, layer in active]
    for (handle, layer), column in zip(active, columns, strict=True):
        attention_mask = handle.hide(layer, column, query, key, attention_mask)

    def again(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        outputs, weights = own(module, query, key, value, attention_mask, **settings)
        return outputs.transpose(1, 2), weights

    outputs, weights = again(query, key, value)
    readable = attention_mask > torch.finfo(attention_mask.dtype).min / 2
    for (handle, layer), column in zip(active, columns, strict=True):
        handle.see(Attention(layer, query, key, value, weights, outputs, readable, column, again))
    return outputs.transpose(1, 2).contiguous(), weights


AttentionInterface.register(_NAME, _attend)


AttentionMaskInterface.register(_NAME, eager_mask)
