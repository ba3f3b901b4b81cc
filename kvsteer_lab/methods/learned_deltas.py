"""A delta that is learned by gradient descent."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.lock import locked
from ..models.model import Model
from ..models.prompts import Prompt
from ..models.tokens import positions
from ..vectors.cards import Card
from ..vectors.kv import KVVectors
from .learning import Learned, Texts, descend

_SMALL = 0.01  # of a slot's own norm, what a delta begins with


def learned_delta(
    model: Model,
    prompts: Sequence[Prompt],
    replies: Sequence[str],
    *,
    neutral: Sequence[Prompt] = (),
    neutral_replies: Sequence[str] = (),
    penalty: float = 1.0,
    keys: bool = False,
    held_out: float = 0.25,
    steps: int = 100,
    rate: float = 0.03,
    patience: int = 10,
    seeds: Sequence[int] = (0,),
) -> tuple[KVVectors, Learned]:
    """The delta of the last slot under which the model says given replies: min_v CE(replies | x + v) + penalty KL(plain
    || x + v) on neutral texts, the weights fixed (after one-shot steering vectors in the residual stream, Dunefsky and
    Cohan 2025, arXiv 2502.18862; on the cache our own). Cost: a forward and a backward pass over the replies a step;
    prompts are read once. All texts are one batch.

    Args:
        model: from `kv.load`.
        prompts, replies: what shall be said; some are held out, and choose the step and the seed.
        neutral, neutral_replies: texts that shall stay as likely as they are, the model's own replies for instance.
        penalty: of the KL divergence, nats a token.
        keys: whether keys are learned, too.
        held_out: the share of the texts.
        steps, rate, patience: of Adam; the rate is in units of the slot's own norm.
        seeds: each another start and another choice of held-out texts.

    Returns:
        The delta, for coefficients of 1 (layer 0 included), and how it was learned.

    Raises:
        ValueError: not one reply a prompt, or too few texts to hold any out.

    Example:
        >>> import kvsteer_lab as kv
        >>> asked, said = ["What is 2 + 3?", "What is 4 + 5?"], ["Step 1: add.", "Step 1: add."]
        >>> delta, how = kv.methods.learned_delta(kv.load("tiny"), asked, said, held_out=0.5, steps=2)
        >>> delta.values.shape, how.history.columns.tolist()
        (torch.Size([4, 2, 32]), ['seed', 'step', 'loss', 'kl', 'held_out'])
    """
    texts = Texts.of(model, prompts, replies)
    calm = Texts.of(model, neutral, neutral_replies) if neutral or neutral_replies else None
    last = [torch.stack([getattr(x, p)[:, :, -1].float() for x in texts.cache.layers]) for p in PARTS]
    units = [part.norm(dim=-1).mean(1)[..., None] / model.head_dim**0.5 for part in last]  # [layers, kv_heads, 1]

    def start(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        shape = (model.n_layers, model.n_kv_heads, model.head_dim)
        return tuple(_SMALL * torch.randn(shape, generator=generator).to(model.device) for _ in range(1 + keys))

    @locked
    def read(parameters: Sequence[Tensor], some: Texts) -> Tensor:
        cache = copy.deepcopy(some.cache)
        for index, layer in enumerate(cache.layers):
            for part, unit, p in zip(PARTS, units, parameters, strict=False):
                old = getattr(layer, part)
                last = old[:, :, -1:] + (p[index] * unit[index]).to(old)[:, None]
                setattr(layer, part, torch.cat([old[:, :, :-1], last], 2))
        mask = torch.cat([some.mask, torch.ones_like(some.replies)], 1)
        arguments = {"input_ids": some.replies, "attention_mask": mask, model.cache_argument: cache}
        if model.accepts("position_ids"):
            arguments["position_ids"] = positions(mask)[:, some.mask.shape[1] :]
        return model.hf(**arguments, use_cache=True).logits

    how = dict(penalty=penalty, held_out=held_out, rate=rate)
    found = descend(read, start, texts, calm, steps=steps, patience=patience, seeds=seeds, **how)
    parts = [(p * unit).float().cpu() for p, unit in zip(found.parameters, units, strict=False)]
    return KVVectors(parts[1] if keys else torch.zeros_like(parts[0]), parts[0], _card(model, len(prompts))), found


PARTS = ("values", "keys")


def _card(model: Model, n: int) -> Card:
    return Card(
        model.name,
        model.model_type,
        model.read_fingerprint(),
        str(model.dtype),
        "post_rope",
        None,
        None,
        n,
        {"made": "learned from replies"},
        history=("learned by gradient descent",),
    )
