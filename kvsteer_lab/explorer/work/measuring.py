"""How an intervention changes the probability of each token of a text, and which other tokens were likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._util.batching import in_batches
from ...generation.divergence import kl
from ...generation.rows import Row, group_rows
from ...generation.scoring import logits_along
from ...models.model import Model
from ...models.token_texts import text_after, token_pieces
from ..results.comparison import Likely, Measured
from ..threads import Cancelled, CancelledError
from .running import holding_the_model

LIKELIEST = 5
"""How many tokens of each side are kept before each token of a text."""
_CONTEXT = 8  # tokens: a token's text depends on what stands before it, but not on what stands far before it


def measure_rows(
    model: Model,
    sides: Sequence[tuple[Row, Row]],
    targets: Sequence[Sequence[int]],
    cancelled: Cancelled,
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
    model: Model, sides: Sequence[tuple[Row, Row]], targets: Sequence[tuple[int, ...]], cancelled: Cancelled
) -> list[Measured]:
    parts: dict[str, list[Tensor]] = {"p": [], "q": [], "kl": []}
    likely: list[list[tuple[Likely, ...]]] = [[] for _ in targets]
    with holding_the_model(model, cancelled):
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
                for t in range(min(p.shape[1], len(targets[row]) - len(own))):
                    read = [*sides[row][0].tail, *targets[row][: len(own)]]
                    own.append(_likeliest(model.tokenizer, read, log_p[row, t].exp(), log_q[row, t].exp()))
    log_p, log_q, nats = (torch.cat(part, 1) for part in parts.values())
    found = []
    for row, ids in enumerate(targets):
        values = [tuple(part[row, : len(ids)].tolist()) for part in (log_p, log_p - log_q, nats)]
        pieces = token_pieces(model.tokenizer, ids, sides[row][0].forced)
        found.append(Measured(pieces, values[0], values[1], values[2], tuple(likely[row])))
    return found


def _likeliest(tokenizer: Any, read: Sequence[int], p: Tensor, q: Tensor) -> tuple[Likely, ...]:
    """The likeliest tokens of both sides after the tokens `read`, those of the intervention first."""
    n = min(LIKELIEST, len(p))
    order = dict.fromkeys([*p.topk(n).indices.tolist(), *q.topk(n).indices.tolist()])
    near = read[-_CONTEXT:]
    texts = {t: text_after(tokenizer, near, [t], skip_special_tokens=False) for t in order}
    return tuple(Likely(text, float(p[t]), float(q[t]), t) for t, text in texts.items())
