"""A model without its weights: tokenizer, templates, shapes and rotation, for texts that are computed elsewhere."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnsight import TransformersModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from .architectures import probe_cache, refuse_by_config
from .fingerprint import UNREAD, config_hash
from .gguf import find_gguf, read_gguf_outline
from .loading import _place
from .lock import locked
from .missing import BUNDLED
from .model import Model
from .rotary import Rotary, find_rotary
from .templates import PlainTemplate, with_template


@dataclass(frozen=True, repr=False)
class WeightlessModel(Model):
    """A model whose weights lie elsewhere. Made by `load_weightless`."""

    @property
    def device(self) -> torch.device:
        """The CPU: token ids are made there, and sent."""
        return torch.device("cpu")

    @property
    def fingerprint(self) -> str:
        """`unread-`, and the config's part of a fingerprint: nobody has read the weights."""
        return f"{UNREAD}-{config_hash(self.hf)[:8]}"

    def read_fingerprint(self) -> str:
        """As `fingerprint`."""
        return self.fingerprint

    @cached_property
    def rotary(self) -> Rotary:
        """The rotation that the config asks for, found on a narrow random model of the same config."""
        return find_rotary(narrow_twin(self))


@locked
def load_weightless(
    source: str | Path, *, dtype: torch.dtype | None = None, template: str | PlainTemplate | None = None
) -> WeightlessModel:
    """All of a model but its weights. Prompts, vectors and cards can be made with it, and texts where its weights are:
    `kv.extract(..., remote=...)` and `kv.generate(..., backend=kv.backends.Remote(...))`.

    Shapes come from the model's own code, run on tensors without data; the rotation of its keys from a narrow random
    model of the same config. Should it be run here after all, nnsight loads the weights then.

    Args:
        source: a name, folder, hub id or GGUF file as in `kv.load`. A file's prompts can be made, and its texts by a
            backend, but nothing is run remotely.
        dtype: in which the weights are held where they are; by default as in `kv.load`.
        template: as in `kv.load`.

    Returns:
        The model.

    Raises:
        ValueError: nothing is found under that name, or its shapes can't be told without weights.
        UnsteerableModelError: its cache can't be steered.

    >>> model = load_weightless("tiny")
    >>> model.n_layers, model.n_kv_heads, model.head_dim, model.hf.device.type
    (4, 2, 32, 'meta')
    """
    name = str(source)
    file = find_gguf(Path(name).expanduser())
    path = name if file is not None else _place(name)
    if file is not None:
        config, tokenizer = read_gguf_outline(file)
    else:
        try:
            config = AutoConfig.from_pretrained(path)
            tokenizer = AutoTokenizer.from_pretrained(path)
        except Exception as error:  # a damaged file makes transformers raise almost anything
            raise ValueError(f"Cannot read the config and tokenizer of {name!r}; give a folder or a hub id.") from error
        refuse_by_config(config)
    held = dtype or (torch.float32 if name in BUNDLED else config.dtype) or torch.float32
    with torch.device("meta"):
        hf: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=held).eval()
    try:
        hf.generation_config = GenerationConfig.from_pretrained(path)
    except OSError:  # a checkpoint without one, or a file
        hf.generation_config = GenerationConfig.from_model_config(config)
    try:
        shape = probe_cache(hf)
    except (RuntimeError, NotImplementedError) as error:  # an operation that torch has no meta kernel for
        raise ValueError(f"The shapes of {name} can't be told without its weights; load it with kv.load.") from error
    traced = None
    if file is None:
        traced = TransformersModel(path, task="text-generation", tokenizer=copy.deepcopy(tokenizer), dtype=held)
    return WeightlessModel(hf, traced, with_template(tokenizer, template, None), name, shape)


def narrow_twin(model: Model) -> Model:
    """A random model of the same config with one head and few dimensions: what rotates keys is the same in it.

    Args:
        model: whose config it has.

    Raises:
        ValueError: the config can't be narrowed.

    >>> narrow_twin(load_weightless("tiny")).head_dim
    32
    """
    config = copy.deepcopy(model.hf.config)
    text = config.get_text_config(decoder=True)
    narrow: dict[str, Any] = dict(
        hidden_size=model.head_dim, intermediate_size=16, num_attention_heads=1, num_key_value_heads=1, vocab_size=64
    )
    try:
        for name, value in {**narrow, "head_dim": model.head_dim}.items():
            if hasattr(text, name):
                setattr(text, name, value)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(config, name, None)
        hf = AutoModelForCausalLM.from_config(config).float().eval()
        return Model(hf, None, None, model.name, probe_cache(hf))
    except Exception as error:  # an architecture with other names, or sizes that depend on each other
        raise ValueError(
            f"The rotation of {model.name} can't be told without its weights; use keys='post_rope', or load it with"
            " kv.load."
        ) from error
