"""Loading a model, and what can be steered in it."""

from __future__ import annotations

import copy
import hashlib
import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from nnsight import NNsight, TransformersModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel
from transformers.utils import logging

from .architectures import CacheShape, UnsteerableModelError, probe_cache, refuse_by_config
from .cache import fill
from .prompts import Prompt, as_chat, as_list, encode, pad_left, pad_token, positions, render

if TYPE_CHECKING:
    from .rotary import Rotary

BUNDLED = ("tiny", "tiny-control")
"""The models that ship with the package."""

LOCK = threading.RLock()
"""Held around all use of a model: nnsight is not thread-safe, and neither is a cache."""


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

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that identify the weights, whatever dtype they were loaded in.

        32 values of each parameter are hashed, rounded to bfloat16; an adapter changes it, too.
        """
        digest = hashlib.sha256()
        for name, parameter in sorted(self.hf.named_parameters(), key=lambda item: item[0]):
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            if parameter.device.type != "meta":
                digest.update(_sample(parameter.detach()))
        return digest.hexdigest()[:16]

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
            raise ValueError(f"The prompt has {len(ids)} tokens, but the context of {self.name} is {self.context}; shorten it.")
        return ids

    def prefill(self, prompt: Prompt, *, chat: bool = True) -> DynamicCache:
        """The cache of a prompt's tokens, to look at and to edit with `kv.apply`.

        `cache.layers[l].keys` and `.values` are `[1, kv_heads, tokens, head_dim]`, keys after RoPE. The offset token is
        not in it: with `ids = model.encode(prompt) + [offset_id]` it can be given to `model.hf.generate`.
        """
        rows = [self.encode(p, chat=chat) for p in as_list(prompt)]
        ids, mask = pad_left(rows, pad_token(self.tokenizer), self.device)
        with LOCK:
            return fill(self, ids, mask)


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
    path = str(files(__package__) / "tiny" / "weights" / name) if name in BUNDLED else name
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
        raise ValueError(f"Cannot load {name!r}: {first_line.rstrip(' .:')}. Give {known}, a folder written by save_pretrained, or a hub id.") from error
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
    traced = NNsight(view) if tokenizer is None else TransformersModel(view, task="text-generation", tokenizer=copy.deepcopy(tokenizer))
    return Model(hf, traced, tokenizer, name, shape)


def share_weights(module: PreTrainedModel) -> PreTrainedModel:
    """A copy of the module tree that holds the same parameter and buffer tensors: no memory, no side effects."""
    tensors: Mapping[int, Any] = {id(t): t for t in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, dict(tensors))


def without_peft(module: Any) -> PreTrainedModel:
    if hasattr(module, "peft_config") and hasattr(module, "get_base_model"):
        if module.active_peft_config.is_prompt_learning:
            raise UnsteerableModelError("A prompt-learning adapter writes into the cache itself; merge it or load the base model.")
        module = module.get_base_model()  # the adapter's layers live inside it
    if not isinstance(module, PreTrainedModel):
        raise UnsteerableModelError(f"{type(module).__name__} is no transformers model; load it with AutoModelForCausalLM.")
    return module


def _tokenizer_of(origin: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(origin)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"No tokenizer was given and none is found under {origin!r}; pass tokenizer=AutoTokenizer.from_pretrained(...).") from error


def _sample(parameter: Tensor, n: int = 32) -> bytes:
    index = torch.linspace(0, parameter.numel() - 1, n, dtype=torch.float64).long().to(parameter.device)
    try:
        values = parameter.flatten()[index]
    except (RuntimeError, NotImplementedError, TypeError):  # quantised tensors don't index
        values = parameter.dequantize().flatten()[index]
    return values.float().bfloat16().cpu().view(torch.int16).numpy().tobytes()
