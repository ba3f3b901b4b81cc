"""A bank that is learned by gradient descent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from ..edits.banks import Bank, check_bank
from ..models.lock import locked
from ..models.model import Model
from ..models.prompts import Prompt
from ..models.tokens import positions
from .learning import Learned, Texts, descend

_SMALL = 0.01  # of the bank's own size, what seeds differ by


def learned_bank(
    model: Model,
    start: Bank,
    prompts: Sequence[Prompt],
    replies: Sequence[str],
    *,
    neutral: Sequence[Prompt] = (),
    neutral_replies: Sequence[str] = (),
    penalty: float = 1.0,
    held_out: float = 0.25,
    steps: int = 100,
    rate: float = 0.03,
    patience: int = 10,
    seeds: Sequence[int] = (0,),
) -> tuple[Bank, Learned]:
    """The bank before the prompt under which the model says given replies, the weights fixed: min_{K,V} CE(replies | K,
    V, x) + penalty KL(plain || ...) on neutral texts (prefix tuning, Li and Liang 2021, arXiv 2101.00190, without their
    network; it begins at a text's own keys and values). Cost: a forward and a backward pass over prompts and replies a
    step. All texts are one batch.

    Args:
        start: what it begins as, a text's bank for instance; as many slots are learned.
        model, prompts, replies, neutral, neutral_replies, penalty, held_out, steps, rate, patience, seeds: as for
            `learned_delta`; the rate is in units of the bank's own size.

    Returns:
        The bank, for `kv.edits.Insert`, and how it was learned.

    Raises:
        ValueError: as `learned_delta`; a bank of another model.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, asked, said = kv.load("tiny"), ["What is 2 + 3?", "What is 4 + 5?"], ["Step 1: add.", "Step 1: add."]
        >>> start = kv.edits.Bank.of(model, "Step by step.", chat=False)
        >>> bank, how = kv.methods.learned_bank(model, start, asked, said, held_out=0.5, steps=1)
        >>> len(bank) == len(start), bool((bank.values == start.values).all())
        (True, False)
    """
    check_bank(start)
    start.check(model)
    own = (start.keys, start.values)
    units = [part.pow(2).mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6) for part in own]  # a size for each layer

    def begin(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            (part / unit + _SMALL * torch.randn(part.shape, generator=generator)).to(model.device)
            for part, unit in zip(own, units, strict=True)
        )

    @locked
    def read(parameters: Sequence[Tensor], some: Texts) -> Tensor:
        cache, slots = DynamicCache(config=model.hf.config), 0
        rows = len(some.mask)
        if parameters:
            slots = len(start)
            keys, values = ((p * u.to(p)).to(model.dtype) for p, u in zip(parameters, units, strict=True))
            for layer in range(model.n_layers):
                cache.update(keys[layer].expand(rows, -1, -1, -1), values[layer].expand(rows, -1, -1, -1), layer)
        ids = torch.cat([some.prompts, some.replies], 1)
        before = some.mask.new_ones(rows, slots)
        mask = torch.cat([before, some.mask, torch.ones_like(some.replies)], 1)
        arguments = {"input_ids": ids, "attention_mask": mask, model.cache_argument: cache}
        if model.accepts("position_ids"):
            arguments["position_ids"] = positions(mask)[:, slots:]
        return model.hf(**arguments, use_cache=True).logits[:, -some.replies.shape[1] :]

    texts = Texts.of(model, prompts, replies)
    calm = Texts.of(model, neutral, neutral_replies) if neutral or neutral_replies else None
    how = dict(penalty=penalty, held_out=held_out, rate=rate)
    found = descend(read, begin, texts, calm, steps=steps, patience=patience, seeds=seeds, **how)
    keys, values = ((p.cpu() * unit).float() for p, unit in zip(found.parameters, units, strict=True))
    return Bank(keys, values, start.positions), found
