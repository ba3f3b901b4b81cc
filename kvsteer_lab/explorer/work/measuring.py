"""How an intervention changes the probability of each token of a text, and what else the model might have said."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..._util.batching import in_batches
from ...generation.divergence import kl
from ...generation.rows import Row, group_rows
from ...generation.scoring import logits_along
from ...models.lock import LOCK
from ...models.model import Model
from .running import CancelledError

STEPS, LIKELIEST = 3, 5
"""The next-token table: of how many steps, how many tokens each."""


@dataclass(frozen=True)
class Likely:
    """A token that might come next: its text, its probability under the intervention and under the baseline."""

    token: str
    probability: float
    baseline: float


@dataclass(frozen=True)
class Measured:
    """One text, token by token.

    Attributes:
        pieces: the text's parts, one a token; joined they are the text.
        logprobs: log-probability of each token under the intervention, in nats.
        change: the same minus the baseline's.
        kl: before each token, KL(intervention || baseline) of the next-token distributions, in nats.
        likely: for the first steps, the likeliest tokens under the intervention and under the baseline.
    """

    pieces: tuple[str, ...] = field(repr=False)
    logprobs: tuple[float, ...] = field(repr=False)
    change: tuple[float, ...] = field(repr=False)
    kl: tuple[float, ...] = field(repr=False)
    likely: tuple[tuple[Likely, ...], ...] = field(repr=False)

    def nats(self, first: int | None = None) -> float:
        """KL summed over the first tokens, or over all of them."""
        return sum(self.kl[:first])


def measure_rows(
    model: Model,
    sides: Sequence[tuple[Row, Row]],
    targets: Sequence[Sequence[int]],
    cancelled: threading.Event,
    batch_size: int = 16,
) -> Iterator[list[tuple[int, Measured]]]:
    """Read each text under its intervention and under its baseline; after each batch, the numbers of its texts and what
    was measured.

    The same numbers as `kv.score` and `kv.divergence`, from one reading.

    Args:
        model: the model.
        sides: for each text, the row that reads it under the intervention, and the one under the baseline.
        targets: the texts' tokens.
        cancelled: when it is set, reading stops.
        batch_size: texts read together.

    Raises:
        CancelledError: `cancelled` was set.
    """

    def run(batch: Sequence[int]) -> list[Measured]:
        return _measure(model, [sides[i] for i in batch], [tuple(targets[i]) for i in batch], cancelled)

    for group in group_rows(
        model, [row for row, _ in sides]
    ):  # the baseline's tails are equally long, so its rows fit together, too
        for batch, found in in_batches(group, batch_size, run):
            yield list(zip(batch, found, strict=True))


@torch.no_grad()
def _measure(
    model: Model, sides: Sequence[tuple[Row, Row]], targets: Sequence[tuple[int, ...]], cancelled: threading.Event
) -> list[Measured]:

    parts: dict[str, list[Tensor]] = {"p": [], "q": [], "kl": []}
    likely: list[list[tuple[Likely, ...]]] = [[] for _ in targets]
    with LOCK:
        along = zip(*(logits_along(model, [side[i] for side in sides], targets) for i in (0, 1)), strict=True)
        for (p, tokens), (q, _) in along:
            if cancelled.is_set():
                raise CancelledError
            log_p, log_q = p.float().log_softmax(-1), q.float().log_softmax(-1)
            chosen = tokens[..., None].to(log_p.device)
            parts["p"].append(log_p.gather(-1, chosen)[..., 0].cpu())
            parts["q"].append(log_q.gather(-1, chosen)[..., 0].cpu())
            parts["kl"] += [kl(p[:, t], q[:, t]).cpu()[:, None] for t in range(p.shape[1])]
            for row, own in enumerate(likely):
                for t in range(min(p.shape[1], STEPS - len(own), len(targets[row]) - len(own))):
                    own.append(_likeliest(model.tokenizer, log_p[row, t].exp(), log_q[row, t].exp()))
    log_p, log_q, nats = (torch.cat(part, 1) for part in parts.values())
    found = []
    for row, ids in enumerate(targets):
        values = [tuple(part[row, : len(ids)].tolist()) for part in (log_p, log_p - log_q, nats)]
        found.append(Measured(token_pieces(model.tokenizer, ids), values[0], values[1], values[2], tuple(likely[row])))
    return found


def _likeliest(tokenizer: Any, p: Tensor, q: Tensor) -> tuple[Likely, ...]:
    """The likeliest tokens of both sides, those of the intervention first."""
    n = min(LIKELIEST, len(p))
    order = dict.fromkeys([*p.topk(n).indices.tolist(), *q.topk(n).indices.tolist()])
    return tuple(Likely(tokenizer.decode([t]), float(p[t]), float(q[t])) for t in list(order)[: 2 * n])


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token where it stands; an end token has none, and neither has part of a character that is not
    yet whole.
    """
    pieces, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[:end]), skip_special_tokens=True)
        whole = text.rstrip("�")
        if end < len(ids) and len(whole) < len(text):
            text = whole
        pieces.append(text[len(before) :] if text.startswith(before) else "")
        before = text if text.startswith(before) else before
    return tuple(pieces)
