"""A loaded model, its tokenizer, and what can be steered in it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from .architectures import CacheShape
from .fingerprint import Checksums, fingerprint
from .lock import LOCK
from .prompts import Prompt, as_chat, as_list, encode, pad_left, pad_token, positions, render

if TYPE_CHECKING:
    from .rotary import Rotary


@dataclass(frozen=True)
class Model:
    """A loaded causal language model whose cached keys and values can be traced and edited.

    Attributes:
        hf: the plain transformers model; it decodes.
        traced: the same weights behind nnsight; it prefills.
        tokenizer: the model's tokenizer.
        name: what it was loaded from.
        shape: layers, KV heads, head width and sliding windows, as they are in the cache.
    """

    hf: PreTrainedModel = field(repr=False)
    traced: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    shape: CacheShape

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

    @cached_property
    def rotary(self) -> Rotary:
        """How this model rotates its keys, found by probing it."""
        from .rotary import find_rotary

        return find_rotary(self)

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

        Raises:
            ValueError: no tokens, or more than the model's context.
        """
        if not chat and not isinstance(prompt, str):
            raise ValueError("With chat=False a prompt must be a string; this one is a list of messages.")
        text = render(self.tokenizer, as_chat(prompt)) if chat else prompt
        ids = encode(self.tokenizer, str(text))
        if not ids:
            raise ValueError(f"The prompt {text!r} gives no tokens; every prompt needs some text.")
        if self.context is not None and len(ids) >= self.context:
            raise ValueError(
                f"The prompt has {len(ids)} tokens, but the context of {self.name} is {self.context}; shorten it."
            )
        return ids

    def prefill(self, prompt: Prompt, *, chat: bool = True) -> DynamicCache:
        """The cache of a prompt's tokens, to look at and to edit with `kv.apply`.

        `cache.layers[l].keys` and `.values` are `[1, kv_heads, tokens, head_dim]`, keys after RoPE. The offset token is
        not in it: with `ids = model.encode(prompt) + [offset_id]` it can be given to `model.hf.generate`.
        """
        from .prefill import fill

        rows = [self.encode(p, chat=chat) for p in as_list(prompt)]
        ids, mask = pad_left(rows, pad_token(self.tokenizer), self.device)
        with LOCK:
            return fill(self, ids, mask)
