"""Plain PyTorch steering and attention knockouts on a bundled model, for the gate.

The gate judges a model, so it leans on nothing but transformers: it is independent of the library's own path, and
it can bar single positions from reading others, which generation with ordinary attention can't.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from kvsteer_lab.models.caches import cache_argument
from kvsteer_lab.tasks.base import Chat

Edit = tuple[Tensor, Tensor]
"""What is added to the slot's keys and values: `[layers, heads, dim]`, or one for each row with `[rows, ...]`."""


@dataclass
class Filled:
    """A cache filled with prompts, the slot last, and what decoding needs.

    Attributes:
        cache: of all positions but the offset token's.
        shown: which positions later tokens may read, `[rows, T]`.
        next_position: the offset token's position in each row.
    """

    cache: DynamicCache
    shown: Tensor
    next_position: Tensor

    def repeat(self, times: int) -> Filled:
        """The same prompts `times` over: prompt 0 of every copy first, as `torch.repeat_interleave` does."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(times)
        return Filled(cache, self.shown.repeat_interleave(times, 0), self.next_position.repeat_interleave(times, 0))


class Probe:
    """A model in float32 with its tokenizer.

    Args:
        folder: where the model lies.
    """

    def __init__(self, folder: Path | str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.start = self.tokenizer.convert_tokens_to_ids("<|im_start|>")
        self.end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.newline = self.tokenizer("\n", add_special_tokens=False).input_ids[0]

    @torch.no_grad()
    def fill(self, chats: list[Chat], blind_slot: bool = False) -> Filled:
        """Fill a cache with prompts.

        Args:
            chats: conversations that end with the user's message.
            blind_slot: bar each prompt's slot from reading the earlier turns.
        """
        texts = [self.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        batch = self.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        ids, shown = batch.input_ids, batch.attention_mask.bool()
        length = ids.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril() & shown[:, None, :]
        seen = seen | torch.eye(length, dtype=torch.bool)
        if blind_slot:
            for row, starts in enumerate(ids == self.start):
                seen[row, -1, : int(starts.nonzero()[-2])] = False
        position = (shown.long().cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        given = {cache_argument(self.model): cache}
        self.model.model(ids, attention_mask=_additive(seen), position_ids=position, **given)
        return Filled(cache, shown, shown.sum(-1))

    @torch.no_grad()
    def decode(
        self,
        filled: Filled,
        edit: Edit | None = None,
        hide_slot: bool = False,
        forced: list[int] | None = None,
        most: int = 110,
    ) -> list[str]:
        """Greedy replies, from the offset token on.

        Args:
            filled: the prompts; it is not changed.
            edit: what is added to the slot.
            hide_slot: bar every later token from reading the slot.
            forced: ids that every reply begins with.
            most: the most new tokens.
        """
        cache = copy.deepcopy(filled.cache)
        if edit is not None:
            for number, layer in enumerate(cache.layers):
                layer.keys[:, :, -1] += edit[0][..., number, :, :]
                layer.values[:, :, -1] += edit[1][..., number, :, :]
        shown, position = filled.shown.clone(), filled.next_position.clone()
        if hide_slot:
            shown[:, -1] = False
        rows = shown.shape[0]
        prefix = [self.newline, *(forced or [])]
        token = torch.tensor(prefix).expand(rows, -1)
        replies: list[list[int]] = [list(forced or []) for _ in range(rows)]
        active = torch.arange(rows)
        for _ in range(most):
            new = token.shape[1]
            shown = torch.cat([shown, torch.ones(len(active), new, dtype=torch.bool)], -1)
            causal = torch.ones(new, shown.shape[1], dtype=torch.bool).tril(shown.shape[1] - new)
            out = self.model(
                token,
                attention_mask=_additive(causal & shown[:, None, :]),
                position_ids=position[:, None] + torch.arange(new),
                logits_to_keep=1,
                **{cache_argument(self.model): cache},
            )
            position, token = position + new, out.logits[:, -1].argmax(-1, keepdim=True)
            ended = token[:, 0] == self.end
            for row, one in zip(active[~ended].tolist(), token[~ended, 0].tolist(), strict=True):
                replies[row].append(one)
            if ended.any():
                active, shown, position, token = (x[~ended] for x in (active, shown, position, token))
                if not len(active):
                    break
                cache.batch_select_indices((~ended).nonzero()[:, 0])
        return self.tokenizer.batch_decode(replies)

    @torch.no_grad()
    def slots(self, chats: list[Chat], size: int = 100) -> Edit:
        """Keys and values of each prompt's slot: `[prompts, layers, heads, dim]`."""
        keys, values = [], []
        for i in range(0, len(chats), size):
            layers = self.fill(chats[i : i + size]).cache.layers
            keys.append(torch.stack([layer.keys[:, :, -1] for layer in layers], 1))
            values.append(torch.stack([layer.values[:, :, -1] for layer in layers], 1))
        return torch.cat(keys), torch.cat(values)


def _additive(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))[:, None]


def dose(vector: Edit, c_k: float, c_v: float) -> Edit:
    """The edit of a vector with its coefficients, at every layer but the first."""
    later = (torch.arange(vector[0].shape[0]) > 0).view(-1, 1, 1)
    return c_k * vector[0] * later, c_v * vector[1] * later


def random_like(vector: Edit, seed: int) -> Edit:
    """Gaussian directions with the vector's norm at each layer, in keys and in values."""
    rng = torch.Generator().manual_seed(seed)

    def matched(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=rng)
        return noise * (x.norm(dim=(1, 2)) / noise.norm(dim=(1, 2))).view(-1, 1, 1)

    return matched(vector[0]), matched(vector[1])
