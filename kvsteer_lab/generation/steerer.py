"""The front door that articles about the method show: vectors that steer a plain transformers model."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from ..interventions.cache import CacheSteering
from ..models.architectures import refuse_by_config
from ..models.lock import locked
from ..models.model import Model
from ..models.wrapping import refuse_hooks, share_weights, without_peft, wrap
from ..vectors.kv import KVVectors
from .decoding import decode
from .rows import check_context, make_rows, warn_of_windows
from .settings import asked_for, resolve

ARTICLES_CK, ARTICLES_CV = 0.3, 6
"""The coefficients of the snippet in articles about the method."""

_WRAPPED: weakref.WeakKeyDictionary[PreTrainedModel, tuple[Any, Model]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class KVSteerer:
    """Steering vectors ready to be used on a model that was loaded with `AutoModelForCausalLM`.

    Attributes:
        vectors: what is added at coefficient 1.
    """

    vectors: KVVectors

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: str | torch.device | None = None, *, revision: str | None = None
    ) -> KVSteerer:
        """Read vectors from a file, a folder or a hub repository.

        Args:
            source: as in `KVVectors.load`.
            device: accepted as in the articles; the edit follows the cache to its own device.
            revision: branch, tag or commit on the hub.
        """
        if device is not None:
            torch.device(device)  # a misspelt device is an error here, not later
        return cls(KVVectors.load(source, revision=revision))

    def steer(
        self,
        model: PreTrainedModel,
        input_ids: Int[Tensor, "rows time"],
        attention_mask: Int[Tensor, "rows time"] | None = None,
        ck: float = ARTICLES_CK,
        cv: float = ARTICLES_CV,
        max_new_tokens: int = 128,
        generation: Mapping[str, Any] | GenerationConfig | None = None,
    ) -> Int[Tensor, "rows total"]:
        """Edit the prompt's last cached slot once and decode.

        Args:
            model: any model that `kv.load` accepts; it is not changed.
            input_ids, attention_mask: tokenised prompts, padded on either side. Several rows need their mask: nothing
                else tells padding from text.
            ck, cv: coefficients of keys and values. The defaults are those of the snippet in articles, 0.3 and 6, and
                bring a warning: of the 24 settings that the authors released 23 have no keys at all. See
                `KVVectors.relative_to` for what coefficients mean, and `kv.tune` for choosing them.
            max_new_tokens, generation: as in `kv.generate`.

        Returns:
            Prompt, offset token and new tokens: `[rows, time + 1 + new]`, prompts left-padded.

        Raises:
            ValueError: vectors without an offset token, ids that are not `[rows, time]`, several rows without a mask,
                or what `kv.generate` refuses.

        Warns:
            UserWarning: both coefficients are the articles'.

        >>> import kvsteer_lab as kv
        >>> import torch
        >>> model = kv.load("tiny")
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1: add."], ["The answer is 5."])
        >>> vectors = kv.extract(model, pairs, progress=False)
        >>> ids = torch.tensor([model.encode("What is 2 + 3?")])
        >>> kv.KVSteerer(vectors).steer(model.hf, ids, ck=0, cv=6, max_new_tokens=3).shape == (1, ids.shape[1] + 1 + 3)
        True
        """
        offset = self.vectors.card.offset_id
        if offset is None:
            raise ValueError(
                "These vectors name no offset token; use kv.CacheSteering with kv.generate(..., offset=...)."
            )
        if (ck, cv) == (ARTICLES_CK, ARTICLES_CV):
            warnings.warn(
                f"ck={ck} and cv={cv} are the coefficients of the snippet in articles; the settings that the authors"
                " released have ck=0 in 23 of 24 cells and cv from 1 to 10. Choose your own with kv.tune.",
                stacklevel=2,
            )
        wrapped = _wrapped(model)
        steering = CacheSteering(self.vectors, ck, cv)
        steering.check(wrapped)
        settings = resolve(wrapped, {"max_new_tokens": max_new_tokens, **asked_for(generation)}, chat=False)
        mask = _mask(wrapped, input_ids, attention_mask)
        prompts = [row[keep.bool()].tolist() for row, keep in zip(input_ids, mask, strict=True)]
        if not all(prompts):
            raise ValueError("A row of input_ids is masked out as a whole; every prompt needs some tokens.")
        rows = make_rows(wrapped, steering, prompts, offset)
        check_context(wrapped, rows, settings.max_new_tokens)
        warn_of_windows(wrapped, rows, settings.max_new_tokens)
        new = decode(wrapped, rows, settings, seed=0)
        width, longest = max(map(len, prompts)), max(map(len, new))
        full = [
            [settings.pad] * (width - len(p)) + p + [offset] + n + [settings.pad] * (longest - len(n))
            for p, n in zip(prompts, new, strict=True)
        ]
        return torch.tensor(full, device=input_ids.device)


def _mask(model: Model, ids: Any, mask: Any) -> Int[Tensor, "rows time"]:
    """The mask, or one of a single row without padding. Everything that could steer a pad slot is refused."""
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        shape = f"of shape {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(
            f"input_ids must be a tensor [rows, time], not {shape}; make one prompt a row: input_ids[None]."
        )
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"input_ids must be token ids, whole numbers, not {ids.dtype}; pass the tokenizer's own.")
    size = model.hf.get_input_embeddings().num_embeddings
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        raise ValueError(
            f"input_ids hold {int(ids.min())} to {int(ids.max())}, but this model has tokens 0 to {size - 1}; pass the"
            " ids of its own tokenizer."
        )
    if mask is not None:
        if tuple(mask.shape) != tuple(ids.shape):
            raise ValueError(
                f"attention_mask is {list(mask.shape)}, but input_ids are {list(ids.shape)}; pass both alike."
            )
        return mask
    if len(ids) > 1:
        raise ValueError(
            "Several rows need attention_mask, which tells padding from text: without it a pad slot would be steered;"
            " pass the tokenizer's own."
        )
    if ids.shape[1] > 1 and int(ids[0, -1]) in _pads(model):
        warnings.warn(
            "The prompt ends with a pad token and has no attention_mask, so the pad's slot is steered; pass the"
            " tokenizer's mask.",
            stacklevel=4,
        )
    return torch.ones_like(ids)


def _pads(model: Model) -> set[int]:
    found = {getattr(config, "pad_token_id", None) for config in (model.hf.config, model.hf.generation_config)}
    return {int(token) for token in found if token is not None}


@locked
def _wrapped(model: PreTrainedModel) -> Model:
    signature = _signature(model)
    known = _WRAPPED.get(model)
    if known is None or known[0] != signature:
        plain = without_peft(model)
        refuse_by_config(plain.config)
        refuse_hooks(plain)
        name = str(plain.config._name_or_path or plain.config.model_type)
        known = _WRAPPED[model] = signature, wrap(share_weights(plain), None, name, plain)
    return known[1]


def _signature(model: PreTrainedModel) -> tuple[Any, ...]:
    """Changes when modules, tensors or switches do: an adapter added, disabled or chosen, a device or dtype moved
    to.
    """
    return tuple(
        (
            id(m),
            *map(id, m._parameters.values()),
            *map(id, m._buffers.values()),
            repr([v for k, v in vars(m).items() if k != "training" and _is_switch(v)]),
        )
        for m in model.modules()
    )


def _is_switch(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str)) or (
        isinstance(value, list) and all(isinstance(v, str) for v in value)
    )
