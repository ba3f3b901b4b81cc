"""How far an intervention moves the model's next-token distributions, step by step along given texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from .batching import in_batches
from .decoding import Row, check_context, group_rows
from .generation import check_intervention
from .interventions.base import Intervention
from .prompts import Prompt, offset_token
from .scoring import logits_along, match_continuations, rows_under, table_of_tokens, texts_of
from .stats import paired_bootstrap

if TYPE_CHECKING:
    from .models import Model

FIRST = (1, 8, 32)
"""Lengths in tokens over which the divergence is summed."""


@dataclass(frozen=True)
class Divergence:
    """KL divergences along continuations, one entry a prompt.

    Attributes:
        token_ids: the continuation's tokens.
        kl: before each of them, KL(intervention || baseline) of the next-token distributions, in nats.
        tokens: each token as text.
    """

    token_ids: tuple[tuple[int, ...], ...]
    kl: tuple[Float[Tensor, " tokens"], ...] = field(repr=False)
    tokens: tuple[tuple[str, ...], ...] = field(repr=False)

    @property
    def totals(self) -> list[float]:
        """The sum over each whole continuation, in nats."""
        return [float(row.sum()) for row in self.kl]

    def to_frame(self) -> pd.DataFrame:
        """One row a token: `prompt`, `step`, `token_id`, `token`, `kl`."""
        return table_of_tokens(self.token_ids, self.tokens, self.kl, "kl")

    def summary(self, first: Sequence[int] = FIRST) -> pd.DataFrame:
        """One row a prompt: `prompt`, `tokens` (how many), the nats summed over the first tokens (`kl_1`, `kl_8`, ...) and over all (`kl_total`).

        A shorter continuation is summed as far as it goes.
        """
        rows = [(i, len(row), *(float(row[:n].sum()) for n in first), float(row.sum())) for i, row in enumerate(self.kl)]
        return pd.DataFrame(rows, columns=["prompt", "tokens", *(f"kl_{n}" for n in first), "kl_total"])

    def means(self, first: Sequence[int] = FIRST, seed: int = 0) -> pd.DataFrame:
        """The means of `summary` over prompts, a row each of `kl_1`, ..., `kl_total`: `n`, `nats`, and its 95% bootstrap interval `low`, `high`.

        Raises:
            ValueError: a single prompt.
        """
        each = self.summary(first).drop(columns=["prompt", "tokens"])
        rows = {name: paired_bootstrap(each[name].tolist(), [0.0] * len(each), n=1000, seed=seed) for name in each}
        table = pd.DataFrame([(len(each), e.value, e.low, e.high) for e in rows.values()], index=list(rows), columns=["n", "nats", "low", "high"])
        return table.rename_axis("kl")


def divergence(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    continuations: str | Sequence[str | Sequence[int]],
    intervention: Intervention | None,
    against: Intervention | None = None,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    batch_size: int = 32,
) -> Divergence:
    """KL(intervention || baseline) before each token of given continuations, teacher-forced.

    Each side reads the continuation from its own cache, edited or not: KL_t = sum_x p_t(x) log(p_t(x) / q_t(x)), where p_t is the
    distribution of the next token under the intervention, behind its own prompt, its own tail and the continuation's first t tokens, and
    q_t the same under the baseline. So where an intervention renders another chat (a chain-of-thought prompt) or adds forced words, those
    are part of what is compared; the continuation is what follows them, the same for both. Text that one side wrote favours that side:
    measure on steered and on baseline texts.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`.
        continuations: texts (tokenised verbatim) or token ids, one a prompt.
        intervention: what p comes from; `None`: nothing.
        against: what q comes from; `None`: the baseline behind the intervention's own offset token, or without one where it has none, so that what the
            offset does is not taken for what the intervention does. Against `kv.Nothing()` it is counted.
        chat, offset: as in `kv.generate`.
        batch_size: prompts taken together; halved where memory runs out.

    Raises:
        ValueError: not one continuation a prompt, an empty one, or what `kv.generate` refuses.
    """
    given, targets = match_continuations(model, prompts, continuations)
    method, other = (check_intervention(model, side) for side in (intervention, against))
    behind = own_offset(model, method, offset) if against is None else offset
    sides = [rows_under(model, side, given, chat=chat, offset=token) for side, token in ((method, offset), (other, behind))]
    for rows in sides:
        check_context(model, rows, max(map(len, targets)))
    found: dict[int, Tensor] = {}

    def run(batch: Sequence[int]) -> list[Tensor]:
        return _divergence(model, [[rows[i] for i in batch] for rows in sides], [targets[i] for i in batch])

    for group in group_rows(model, sides[0]):  # one method's tails are equally long, so the other side's rows fit together, too
        for batch, part in in_batches(group, batch_size, run):
            found.update(zip(batch, part, strict=True))
    return Divergence(tuple(targets), tuple(found[i] for i in range(len(given))), texts_of(model, targets))


def own_offset(model: Model, method: Intervention, offset: str | int | None) -> int | None:
    """The offset token that a method reads in a run with `offset`; `None`: it reads none."""
    token = method.offset_id(model.tokenizer, offset_token(model.tokenizer, offset))
    return token if method.tail(model.tokenizer, token)[:1] == [token] else None


@torch.no_grad()
def _divergence(model: Model, sides: Sequence[Sequence[Row]], targets: Sequence[tuple[int, ...]]) -> list[Tensor]:
    from .models import LOCK

    steps: list[Tensor] = []
    with LOCK:
        for (p, _), (q, _) in zip(*(logits_along(model, rows, targets) for rows in sides), strict=True):
            steps += [kl(p[:, t], q[:, t]).cpu() for t in range(p.shape[1])]
    return [row[: len(t)] for row, t in zip(torch.stack(steps, 1), targets, strict=True)]


def kl(p: Float[Tensor, "rows vocab"], q: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """KL(p || q) in nats from logits, float32, summed in float64 where the device has it. Tokens that p excludes count nothing."""
    wide = torch.float32 if p.device.type == "mps" else torch.float64
    log_p, log_q = (logits.to(wide).log_softmax(-1) for logits in (p, q))
    return torch.nan_to_num(log_p.exp() * (log_p - log_q), nan=0.0, posinf=float("inf")).sum(-1).clamp(min=0).float()
