"""Decoding in nnsight sessions that run elsewhere: one job prefills, edits and decodes, and token ids come back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..generation.backend import Finished, check_greedy, last_slot_addition
from ..generation.rows import Row
from ..generation.settings import Settings
from ..models.model import Model
from ..models.remote import check_remote, steer_and_generate
from ..models.tokens import pad_left

NAME = "nnsight's remote"


@dataclass(frozen=True)
class Remote:
    """nnsight's remote execution. It adds to the prompt's last slot and decodes greedily.

    Args:
        where: `"local"` simulates a server in this process, with this package hidden from what is sent, and is what
            the tests run; `True` is NDIF, another text the address of a server like it.
        batch_size: rows of one job at most.

    >>> import kvsteer_lab as kv
    >>> model, short = kv.load("tiny"), {"max_new_tokens": 4}
    >>> here = kv.generate(model, "What is 2 + 3?", generation=short)
    >>> kv.generate(model, "What is 2 + 3?", generation=short, backend=Remote("local")).texts == here.texts
    True
    """

    where: bool | str = "local"
    batch_size: int = 16

    @property
    def about(self) -> Mapping[str, Any]:
        """That traces ran elsewhere; the model's own weights did."""
        return {"backend": "nnsight", "where": self.where}

    def check(self, model: Model, rows: Sequence[Row], settings: Settings) -> None:
        """Refuse what isn't an addition to the last slot, and sampling."""
        check_remote(model, self.where)
        check_greedy(settings, NAME)
        for row in rows:
            last_slot_addition(row, NAME)

    def decode(self, model: Model, rows: Sequence[Row], settings: Settings, seed: int) -> Iterator[Finished]:
        """Decode rows whose tails are equally long, a batch a job."""
        groups: dict[int, list[int]] = defaultdict(list)
        for i in sorted(range(len(rows)), key=lambda i: len(rows[i].cached)):
            groups[len(rows[i].read)].append(i)
        nothing = torch.zeros(2, model.n_layers, model.n_kv_heads, model.head_dim)
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                numbers = group[start : start + self.batch_size]
                some = [rows[i] for i in numbers]
                added = [last_slot_addition(row, NAME) for row in some]
                deltas = torch.stack([nothing if one is None else one for one in added], 1)
                new = steer_and_generate(
                    model,
                    *pad_left([row.cached for row in some], model.pad_id, model.device),
                    torch.tensor([row.read for row in some], device=model.device),
                    deltas[0],
                    deltas[1],
                    new=settings.max_new_tokens,
                    eos=sorted(settings.eos) or [model.n_tokens],
                    pad=settings.pad,
                    remote=self.where,
                )
                texts = [settings.reply_of(row) for row in new.tolist()]
                yield list(zip(numbers, texts, strict=True))
