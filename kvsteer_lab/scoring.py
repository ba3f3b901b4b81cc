"""How likely given continuations are, on the same path as generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from .batching import in_batches
from .decoding import Row, batch_order, check_context, fill_rows, make_rows, split_by_tail
from .generation import check_intervention
from .interventions.base import Intervention
from .prompts import Prompt, as_chat, as_list, encode, offset_token, positions

if TYPE_CHECKING:
    from .models import Model


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of continuations, one entry a prompt.

    Attributes:
        token_ids: the continuation's tokens.
        logprobs: the natural log of each token's probability, given the prompt, the tail and the tokens before.
        tokens: each token as text.
    """

    token_ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[Float[Tensor, " tokens"], ...] = field(repr=False)
    tokens: tuple[tuple[str, ...], ...] = field(repr=False)

    @property
    def totals(self) -> list[float]:
        """The log-probability of each whole continuation."""
        return [float(row.sum()) for row in self.logprobs]

    def to_frame(self) -> pd.DataFrame:
        """One row a token: `prompt`, `step`, `token_id`, `token`, `logprob`."""
        rows = [
            (p, step, token_id, token, float(logprob))
            for p, row in enumerate(zip(self.token_ids, self.tokens, self.logprobs, strict=True))
            for step, (token_id, token, logprob) in enumerate(zip(*row, strict=True))
        ]
        return pd.DataFrame(rows, columns=["prompt", "step", "token_id", "token", "logprob"])


def score(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    continuations: str | Sequence[str | Sequence[int]],
    intervention: Intervention | None = None,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    batch_size: int = 32,
) -> Scores:
    """Per-token log-probabilities of one continuation a prompt, read from the edited cache.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`.
        continuations: texts (tokenised verbatim) or token ids, one a prompt.
        intervention: what acts on the prompt; `None`: nothing.
        chat, offset: as in `kv.generate`.
        batch_size: rows scored together; halved where memory runs out.

    Raises:
        ValueError: not one continuation a prompt, an empty one, or what `kv.generate` refuses.
    """
    given = as_list(prompts)
    wanted = [continuations] if isinstance(continuations, str) else list(continuations)
    if len(wanted) != len(given):
        raise ValueError(f"There are {len(given)} prompts but {len(wanted)} continuations; pass one for each.")
    targets = [tuple(encode(model.tokenizer, c) if isinstance(c, str) else c) for c in wanted]
    if not all(targets):
        raise ValueError(f"Continuation {[bool(t) for t in targets].index(False)} is empty; there is nothing to score.")
    method = check_intervention(model, intervention)
    ids = [model.encode(method.chat(as_chat(p)) if chat else p, chat=chat) for p in given]
    rows = make_rows(model, method, ids, offset_token(model.tokenizer, offset))
    check_context(model, rows, max(map(len, targets)))
    found: dict[int, Tensor] = {}
    for group in split_by_tail(rows, batch_order(rows)):
        for batch, part in in_batches(group, batch_size, lambda b: _score(model, [rows[i] for i in b], [targets[i] for i in b])):
            found.update(zip(batch, part, strict=True))
    tokens = tuple(tuple(model.tokenizer.decode([t]) for t in row) for row in targets)
    return Scores(tuple(targets), tuple(found[i] for i in range(len(rows))), tokens)


@torch.no_grad()
def _score(model: Model, rows: Sequence[Row], targets: Sequence[tuple[int, ...]]) -> list[Tensor]:
    from .models import LOCK

    with LOCK:
        cache, ids, mask = fill_rows(model, rows)
        past = cache.get_seq_length()
        width = max(map(len, targets))
        # Right padding is harmless here: a token never sees what follows it.
        padded = torch.tensor([[*t, *[t[-1]] * (width - len(t))] for t in targets], device=model.device)
        whole = torch.cat([mask, torch.ones_like(padded)], 1)
        arguments = {"input_ids": torch.cat([ids[:, past:], padded], 1), "attention_mask": whole, "past_key_values": cache, "use_cache": True}
        if model.accepts("position_ids"):
            arguments["position_ids"] = positions(whole)[:, past:]
        logits = model.hf(**arguments).logits[:, ids.shape[1] - past - 1 : -1]
        logprobs = logits.float().log_softmax(-1).gather(-1, padded[..., None].to(logits.device))[..., 0].cpu()
    return [row[: len(t)] for row, t in zip(logprobs, targets, strict=True)]
