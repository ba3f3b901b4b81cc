"""How far an intervention moves the model's next-token distributions, step by step along given texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from .._util.batching import in_batches
from ..interventions.base import Intervention
from ..interventions.checks import check_intervention
from ..models.lock import LOCK
from ..models.model import Model
from ..models.prompts import Prompt
from ..models.shared_prefix import counts_slots
from ..models.tokens import offset_token
from ..stats.intervals import paired_bootstrap
from .rows import Row, batch_key, check_context, group_rows
from .scoring import logits_along, match_continuations, rows_under, table_of_tokens, texts_of

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
        """One row a prompt: `prompt`, `tokens` (how many), the nats summed over the first tokens (`kl_1`, `kl_8`, ...)
        and over all (`kl_total`).

        A shorter continuation is summed as far as it goes.
        """
        rows = [
            (i, len(row), *(float(row[:n].sum()) for n in first), float(row.sum())) for i, row in enumerate(self.kl)
        ]
        return pd.DataFrame(rows, columns=["prompt", "tokens", *(f"kl_{n}" for n in first), "kl_total"])

    def means(self, first: Sequence[int] = FIRST, seed: int = 0) -> pd.DataFrame:
        """The means of `summary` over prompts, a row each of `kl_1`, ..., `kl_total`: `n`, `nats`, and its 95%
        bootstrap interval `low`, `high`.

        Raises:
            ValueError: a single prompt.
        """
        each = self.summary(first).drop(columns=["prompt", "tokens"])
        rows = {name: paired_bootstrap(each[name].tolist(), [0.0] * len(each), n=1000, seed=seed) for name in each}
        table = pd.DataFrame(
            [(len(each), e.value, e.low, e.high) for e in rows.values()],
            index=list(rows),
            columns=["n", "nats", "low", "high"],
        )
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

    Each side reads the continuation from its own cache, edited or not: KL_t = sum_x p_t(x) log(p_t(x) / q_t(x)), where
    p_t is the distribution of the next token under the intervention, after its own prompt, its own tail and the
    continuation's first t tokens, and q_t the same under the baseline. So where an intervention renders another chat (a
    chain-of-thought prompt) or adds a response prefill, those
    are part of what is compared; the continuation is what follows them, the same for both. Text that one side wrote
    favours that side: measure on steered and on baseline texts.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`.
        continuations: texts (tokenised verbatim) or token ids, one a prompt.
        intervention: what p comes from; `None`: nothing.
        against: what q comes from; `None`: the baseline after the intervention's own offset token, or without one
            where it has none, so that what the offset does is not taken for what the intervention does. Against
            `kv.Nothing()` it is counted.
        chat, offset: as in `kv.generate`.
        batch_size: prompts taken together; halved where memory runs out.

    Raises:
        ValueError: not one continuation a prompt, an empty one, or what `kv.generate` refuses.

    Example:
        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> kv.divergence(model, ["2 + 3?"], [" The answer is 5."], kv.Nothing()).totals
        [0.0]
    """
    return divergences(
        model, prompts, continuations, [intervention], against, chat=chat, offset=offset, batch_size=batch_size
    )[0]


def divergences(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    continuations: str | Sequence[str | Sequence[int]],
    interventions: Sequence[Intervention | None],
    against: Intervention | None = None,
    *,
    chat: bool = True,
    offset: str | int | None = "\n",
    batch_size: int = 32,
) -> list[Divergence]:
    """`divergence` of several interventions along the same texts: a prompt is prefilled once a batch, and what q says
    is computed once for all of them.

    Args:
        model, prompts, continuations, against, chat, offset, batch_size: as in `divergence`; a batch holds rows of
            several interventions.
        interventions: what each p comes from.

    Raises:
        ValueError: no interventions, or as `divergence`.
    """
    if not interventions:
        raise ValueError("There are no interventions to measure; pass at least one.")
    given, targets = match_continuations(model, prompts, continuations)
    methods, other = [check_intervention(model, method) for method in interventions], check_intervention(model, against)
    behind = [own_offset(model, method, offset) if against is None else offset for method in methods]
    plain = {token: rows_under(model, other, given, chat=chat, offset=token) for token in dict.fromkeys(behind)}
    ours = [row for method in methods for row in rows_under(model, method, given, chat=chat, offset=offset)]
    # which row of `plain` each of ours is held against
    theirs = [(token, i) for token in behind for i in range(len(given))]
    for rows in (ours, *plain.values()):
        check_context(model, rows, max(map(len, targets)))
    found: dict[int, Tensor] = {}

    def run(batch: Sequence[int]) -> list[Tensor]:
        distinct = list(dict.fromkeys(theirs[k] for k in batch))
        place = [distinct.index(theirs[k]) for k in batch]
        return _divergence(
            model,
            [ours[k] for k in batch],
            [plain[token][i] for token, i in distinct],
            place,
            [targets[i] for _, i in distinct],
        )

    for group in group_rows(model, ours):
        # rows of q share a batch, too
        own = {k: plain[theirs[k][0]][theirs[k][1]] for k in group}
        alike = {k: (len(row.read), *batch_key(row, not counts_slots(model))) for k, row in own.items()}
        for kind in sorted(set(alike.values())):
            same = [k for k in group if alike[k] == kind]
            for batch, part in in_batches(same, batch_size, run):
                found.update(zip(batch, part, strict=True))
    texts, n = texts_of(model, targets), len(given)
    return [Divergence(tuple(targets), tuple(found[m * n + i] for i in range(n)), texts) for m in range(len(methods))]


def own_offset(model: Model, method: Intervention, offset: str | int | None) -> int | None:
    """The offset token that a method reads in a run with `offset`; `None`: it reads none."""
    token = method.offset_id(model.tokenizer, offset_token(model.tokenizer, offset))
    return token if method.tail(model.tokenizer, token)[:1] == [token] else None


@torch.no_grad()
def _divergence(
    model: Model, ours: Sequence[Row], theirs: Sequence[Row], place: Sequence[int], targets: Sequence[tuple[int, ...]]
) -> list[Tensor]:
    """KL of each of our rows against the one of theirs at `place`, along that one's target."""

    steps: list[Tensor] = []
    wanted = [targets[at] for at in place]
    with LOCK:
        along = zip(
            logits_along(model, ours, wanted), logits_along(model, theirs, targets, in_step_with=len(ours)), strict=True
        )
        for (p, _), (q, _) in along:
            steps += [kl(p[:, t], q[place, t]).cpu() for t in range(p.shape[1])]
    return [row[: len(target)] for row, target in zip(torch.stack(steps, 1), wanted, strict=True)]


def kl(p: Float[Tensor, "rows vocab"], q: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """KL(p || q) in nats from logits, float32, summed in float64 where the device has it. Tokens that p excludes count
    nothing.
    """
    wide = torch.float32 if p.device.type == "mps" else torch.float64
    log_p, log_q = (logits.to(wide).log_softmax(-1) for logits in (p, q))
    return torch.nan_to_num(log_p.exp() * (log_p - log_q), nan=0.0, posinf=float("inf")).sum(-1).clamp(min=0).float()
