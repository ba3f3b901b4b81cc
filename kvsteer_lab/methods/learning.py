"""What learned edits share: gradient descent on the edit alone, with the model's weights left as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from ..edits.given import finite_number
from ..models.caches import cache_of
from ..models.lock import LOCK
from ..models.model import Model
from ..models.prompts import Prompt
from ..models.tokens import encode, offset_token, pad_left


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        parameters: the chosen seed's, at its best step.
        history: a row for each seed and step: `seed`, `step`, `loss` (cross-entropy a token), `kl` (nats a token on
            neutral texts), `held_out` (the held-out texts' cross-entropy).
    """

    parameters: tuple[Tensor, ...] = field(repr=False)
    history: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class Texts:
    """Prompts and what follows them: the prompt's cached ids, and the offset token with the reply behind it.

    Attributes:
        prompts, mask: left-padded ids.
        replies: right-padded ids, the offset token first.
        there: which of the replies' tokens are said: not the offset token, not padding.
        cache: the prompts', read once.
    """

    prompts: Int[Tensor, "rows time"]
    mask: Int[Tensor, "rows time"]
    replies: Int[Tensor, "rows steps"]
    there: Float[Tensor, "rows steps"]
    cache: DynamicCache = field(repr=False)

    @classmethod
    def of(cls, model: Model, prompts: Sequence[Prompt], replies: Sequence[str]) -> Texts:
        """Encoded as they are generated, after a newline as the offset token.

        Raises:
            ValueError: not one reply a prompt, none, or an empty one.
        """
        if not prompts or len(prompts) != len(replies) or not all(replies):
            raise ValueError(
                f"There are {len(prompts)} prompts and {len(replies)} replies; pass one reply, not empty, for each."
            )
        offset = offset_token(model.tokenizer, "\n")
        rows = [[offset, *encode(model.tokenizer, reply)] for reply in replies]
        ids, mask = pad_left([model.encode(prompt) for prompt in prompts], model.pad_id, model.device)
        width = max(map(len, rows))
        padded = torch.tensor([row + [model.pad_id] * (width - len(row)) for row in rows], device=model.device)
        there = torch.tensor([[0.0] + [1.0] * (len(row) - 1) + [0.0] * (width - len(row)) for row in rows])
        with LOCK, torch.no_grad():
            cache = cache_of(model.hf(**model.forward_arguments(ids, mask), use_cache=True))
        return cls(ids, mask, padded, there.to(model.device), cache)

    def take(self, rows: Sequence[int]) -> Texts:
        """Only these rows."""
        some, cache = torch.tensor(rows, device=self.mask.device), copy.deepcopy(self.cache)
        cache.batch_select_indices(some)
        return Texts(self.prompts[some], self.mask[some], self.replies[some], self.there[some], cache)


Read = Callable[[Sequence[Tensor], Texts], Float[Tensor, "rows steps vocab"]]
"""Logits at every token of the replies, under an edit with these parameters; without any: of the plain model."""


def descend(
    read: Read,
    start: Callable[[int], tuple[Tensor, ...]],
    texts: Texts,
    neutral: Texts | None,
    *,
    penalty: float,
    held_out: float,
    steps: int,
    rate: float,
    patience: int,
    seeds: Sequence[int],
) -> Learned:
    """Adam on cross-entropy + `penalty` KL(plain || edited) on neutral texts; the seed and the step with the lowest
    cross-entropy on held-out texts win, and a seed stops when that hasn't fallen for `patience` steps.

    Raises:
        ValueError: a rate or penalty that is out of range, no seeds or steps, a share outside of (0, 1), or too few
            texts to hold any out.
    """
    if finite_number("The rate", rate) <= 0 or finite_number("The penalty", penalty) < 0:
        raise ValueError(f"rate={rate} must be above 0, and penalty={penalty} at least 0.")
    n = len(texts.prompts)
    out = max(1, round(held_out * n))
    if not seeds or steps < 1 or not 0 < held_out < 1 or out >= n:
        raise ValueError(
            f"Learning needs seeds, steps, and texts to hold out: {len(seeds)} seeds, {steps} steps and {out} of {n}"
            " texts are too few; pass more texts."
        )
    plain = None
    if neutral is not None:
        with LOCK, torch.no_grad():
            plain = read((), neutral).float().log_softmax(-1)
    best: tuple[float, tuple[Tensor, ...]] = (float("inf"), ())
    rows = []
    for seed in seeds:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
        train, test = texts.take(order[out:]), texts.take(order[:out])
        parameters = tuple(p.requires_grad_() for p in start(seed))
        optimiser = torch.optim.Adam(parameters, lr=rate)
        lowest, since = float("inf"), 0
        for step in range(steps + 1):
            with LOCK, torch.no_grad():
                unseen = float(_cross_entropy(read(parameters, test), test))
            if unseen < lowest:
                lowest, since = unseen, 0
                if unseen < best[0]:
                    best = (unseen, tuple(p.detach().clone() for p in parameters))
            elif (since := since + 1) >= patience:
                break
            with LOCK, torch.enable_grad():
                loss, kl = _cross_entropy(read(parameters, train), train), torch.zeros(())
                if neutral is not None and plain is not None:
                    kl = _divergence(plain, read(parameters, neutral).float().log_softmax(-1), neutral)
                gradients = torch.autograd.grad(loss + penalty * kl, parameters)
            rows.append(dict(seed=seed, step=step, loss=float(loss.detach()), kl=float(kl.detach()), held_out=unseen))
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
    return Learned(best[1], pd.DataFrame(rows))


def _cross_entropy(logits: Tensor, texts: Texts) -> Tensor:
    said = logits[:, :-1].float().log_softmax(-1).gather(-1, texts.replies[:, 1:, None])[..., 0]
    return -(said * texts.there[:, 1:]).sum() / texts.there.sum()


def _divergence(plain: Tensor, edited: Tensor, texts: Texts) -> Tensor:
    kl = (plain.exp() * (plain - edited)).sum(-1)[:, :-1]
    return (kl * texts.there[:, 1:]).sum() / texts.there.sum()
