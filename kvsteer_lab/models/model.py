"""A loaded model, its tokenizer, and what can be steered in it."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from .architectures import CacheShape
from .caches import cache_argument
from .fingerprint import Checksums, fingerprint
from .lock import LOCK, locked
from .prompts import Prompt, as_chat, as_list, check_text, render
from .tokens import encode, missing_bos, pad_left, pad_token, positions

if TYPE_CHECKING:
    from .rotary import Rotary

_TOLD: WeakSet[Any] = WeakSet()
"""Tokenizers of which a missing BOS was said."""


@dataclass(frozen=True, repr=False)
class Model:
    """A loaded causal language model whose cached keys and values can be traced and edited.

    Attributes:
        hf: the plain transformers model; it decodes.
        traced: the same weights inside nnsight; it prefills.
        tokenizer: the model's tokenizer.
        name: what it was loaded from.
        shape: layers, KV heads, head width and sliding windows, as they are in the cache.
        adapters: the adapter layers of the caller's own model, whose weights this one shares, each with the adapters
            that were merged into them when it was loaded.
        call: the call of `kv.load` that gives it again; `None` for a model that the caller loaded, or whose loading
            can't be written down.

    >>> import kvsteer_lab as kv
    >>> model = kv.load("tiny")
    >>> model.n_layers, model.n_kv_heads, model.head_dim
    (4, 2, 32)
    """

    hf: PreTrainedModel = field(repr=False)
    traced: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    shape: CacheShape
    adapters: tuple[tuple[nn.Module, tuple[str, ...]], ...] = field(default=(), repr=False)
    call: str | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        """The model in one line."""
        windows = [window for window in self.shape.windows if window is not None]
        sliding = f"{len(windows)} of them with windows of {min(windows)} tokens, " if windows else ""
        heads = "1 KV head" if self.n_kv_heads == 1 else f"{self.n_kv_heads} KV heads"
        weights = f", weights quantised before ({self.quantised})" if self.quantised else ""
        return (
            f"Model({self.name!r}: {self.model_type}, {self.n_layers} layers, {sliding}{heads} of width"
            f" {self.head_dim}, context {self.context}, {str(self.dtype).removeprefix('torch.')} on"
            f" {self.device}{weights})"
        )

    @property
    def quantised(self) -> str | None:
        """How the weights were quantised before they were loaded as floats, such as `"GGUF Q4_1"`, if they were."""
        found = getattr(self.hf.config, "quantised_weights", None)
        return None if found is None else str(found)

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return self.shape.n_layers

    @property
    def n_kv_heads(self) -> int:
        """Heads as stored in the cache."""
        return self.shape.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.shape.head_dim

    @property
    def device(self) -> torch.device:
        """Where the token ids go: the device of the input embeddings."""
        return self.hf.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def model_type(self) -> str:
        return str(self.hf.config.model_type)

    @property
    def context(self) -> int | None:
        """The longest sequence in tokens that the config promises, if it does."""
        text = self.hf.config.get_text_config(decoder=True)
        return getattr(text, "max_position_embeddings", None)

    @property
    def fingerprint(self) -> str:
        """What identifies the weights, the active adapters and the config (see `kvsteer_lab.models.fingerprint`).

        Weights that were changed in place are read again, the others are remembered. What is written through
        `tensor.data` goes unnoticed; `read_fingerprint` sees it.
        """
        return fingerprint(self.hf, self._checksums)

    def read_fingerprint(self) -> str:
        """The fingerprint with every weight read again, as everything uses it that is stored.

        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> model.read_fingerprint() == model.fingerprint
        True
        """
        self._checksums.forget()
        return self.fingerprint

    @cached_property
    def _checksums(self) -> Checksums:
        return Checksums()

    @property
    def n_tokens(self) -> int:
        """Tokens that the model has an embedding for; the tokenizer may know others."""
        return int(self.hf.get_input_embeddings().weight.shape[0])

    @property
    def pad_id(self) -> int:
        """An id to pad with: the tokenizer's, where the model has an embedding for it."""
        return 0 if self.tokenizer is None else pad_token(self.tokenizer, self.n_tokens)

    @cached_property
    def cache_argument(self) -> str:
        """The name under which the forward pass takes a cache; another one since transformers 5.24."""
        return cache_argument(self.hf)

    @cached_property
    def rotary(self) -> Rotary:
        """How this model rotates its keys, found by probing it."""
        from .rotary import find_rotary

        with LOCK:
            return find_rotary(self)

    def check_adapters(self) -> None:
        """Refuse to go on where an adapter was merged into, or taken out of, weights that this model shares.

        Raises:
            ValueError: it was; this model would apply it twice, or not at all.

        >>> import kvsteer_lab as kv
        >>> kv.load("tiny").check_adapters()
        """
        if any(tuple(cast(Any, layer).merged_adapters) != before for layer, before in self.adapters):
            raise ValueError(
                f"An adapter of {self.name} was merged or unmerged after the model was loaded; load it anew with"
                " kv.load, which shares the weights as they are now."
            )

    @cached_property
    def _parameters(self) -> frozenset[str]:
        return frozenset(inspect.signature(type(self.hf).forward).parameters)

    def accepts(self, argument: str) -> bool:
        """Whether the model's forward pass takes an argument of that name."""
        return argument in self._parameters

    def forward_arguments(self, ids: Int[Tensor, "rows time"], mask: Int[Tensor, "rows time"]) -> dict[str, Any]:
        """Arguments of a forward pass over whole left-padded rows; only the last logits are computed."""
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self.accepts("position_ids"):
            arguments["position_ids"] = positions(mask)
        if self.accepts("logits_to_keep"):
            arguments["logits_to_keep"] = 1
        return arguments

    def encode(self, prompt: Prompt, *, chat: bool = True) -> list[int]:
        """Token ids of a prompt, without the offset.

        Args:
            prompt: a user's message or a chat; with `chat=False`, text that is tokenised verbatim.
            chat: whether the chat template renders it.

        Returns:
            The ids. A warning says once where they lack the BOS token that the tokenizer itself would put first.

        Raises:
            ValueError: no tokens, more than the model's context, or a token that the model has no embedding for.

        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> model.tokenizer.decode(model.encode("How many?", chat=False))
        'How many?'
        """
        if not chat and not isinstance(prompt, str):
            raise ValueError("With chat=False a prompt must be a string; this one is a list of messages.")
        text = render(self.tokenizer, as_chat(prompt)) if chat else check_text(str(prompt), "The prompt")
        ids = encode(self.tokenizer, text)
        if not ids:
            raise ValueError(f"The prompt {text!r} gives no tokens; every prompt needs some text.")
        if self.context is not None and len(ids) >= self.context:
            raise ValueError(
                f"The prompt has {len(ids)} tokens, but the context of {self.name} is {self.context}; shorten it."
            )
        if max(ids) >= self.n_tokens:
            raise ValueError(
                f"The prompt holds the token {self.tokenizer.decode([max(ids)])!r} ({max(ids)}), for which {self.name}"
                f" has no embedding (it has {self.n_tokens}); resize the embeddings, or write the prompt without it."
            )
        if self.tokenizer not in _TOLD and (bos := missing_bos(self.tokenizer, ids)):
            _TOLD.add(self.tokenizer)
            warnings.warn(
                f"The prompt doesn't begin with {bos!r}, which the tokenizer of {self.name} puts before a text: prompts"
                " are tokenised as they stand, so write it, or let a chat template do so.",
                stacklevel=2,
            )
        return ids

    @locked
    def prefill(self, prompt: Prompt, *, chat: bool = True) -> DynamicCache:
        """The cache of a prompt's tokens, to look at and to edit with `kv.edits.apply`.

        `cache.layers[l].keys` and `.values` are `[1, kv_heads, tokens, head_dim]`, keys after RoPE. The offset token is
        not in it: with `ids = model.encode(prompt) + [offset_id]` it can be given to `model.hf.generate`.

        Args:
            prompt, chat: as in `encode`; several prompts are left-padded.

        Returns:
            The cache.

        Raises:
            ValueError: as `encode`.

        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> model.prefill("How many?").get_seq_length() == len(model.encode("How many?"))
        True
        """
        from .prefill import fill

        rows = [self.encode(p, chat=chat) for p in as_list(prompt)]
        return fill(self, *pad_left(rows, self.pad_id, self.device))
