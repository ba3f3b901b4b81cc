"""The logit lens of a steered and a plain run: the residual stream after each layer, unembedded, at the first token
that reads the edited slot and at later ones. It shows in which layer the edit changes the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..._util.batching import check_batch_size, in_batches
from ..._util.progress import counted
from ...generation.rows import Row, check_context
from ...generation.scoring import match_continuations, rows_under
from ...interventions.cache import CacheSteering
from ...interventions.checks import check_intervention
from ...models.lock import locked
from ...models.model import Model
from ...models.prompts import Prompt, as_list
from ...stats.intervals import paired_bootstrap
from ...stats.significance import LEAST_NATS, control_p
from ...vectors.indices import check_indices
from ..budget import logits_within, rows_within
from ..checks import check_steering
from ..reading.kl_in_groups import kl_to_first
from ..watched_token import first_tokens, token_id
from .unembedding import check_unembedding, read_residuals, unembed


@dataclass(frozen=True)
class Lens:
    """The tables of `logit_lens`: what the residual streams of a steered and a plain run say after each layer.

    `step` 0 is the offset token, the first that reads the edited slot; step t reads the continuation's token t. `layer`
    l is the stream after decoder layer l, counted from 0. Intervals (`low`, `high`) are 95% bootstrap intervals over
    prompts; `random` is the mean over random vectors of the same norms, `random_low`, `random_high` hold the middle 95%
    of them, and `p_random` is the share of them (plus one) that do at least as much (of a change, up to a thousandth of
    a nat less).

    Attributes:
        tokens: one row per step, layer and token: `n`, the mean log-probability `plain` and `steered` in nats, their
            difference `change`.
        divergence: one row per step and layer: `n`, `kl`, the mean KL(steered || plain) in nats.
        top: at step 0, for each layer the tokens that gain and lose most: `layer`, `direction` ("up", "down"), `rank`,
            `token`, mean probability `plain` and `steered`, `change`.
    """

    tokens: pd.DataFrame = field(repr=False)
    divergence: pd.DataFrame = field(repr=False)
    top: pd.DataFrame = field(repr=False)


def logit_lens(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    steering: CacheSteering,
    tokens: Sequence[str | int] | None = None,
    continuations: Sequence[str | Sequence[int]] | None = None,
    *,
    layers: Sequence[int] | None = None,
    controls: int = 40,
    top: int = 5,
    seed: int = 0,
    chat: bool = True,
    offset: str | int = "\n",
    batch_size: int = 256,
    progress: bool = True,
) -> Lens:
    """Unembed the residual streams of a steered and a plain run after every layer, where the edited slot is first read
    and at later tokens.

    The streams go through the model's own final norm and unembedding (logit scales and softcapping included), so the
    lens of the last layer is the model's own distribution. Lenses of early layers are read with the last layer's
    dictionary: a token that shows there was not necessarily "thought" there, and one that doesn't was not necessarily
    absent. A layer below the first edited one can't differ: there the change is exactly zero.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`.
        steering: what is added to the cache.
        tokens: texts of one token each, or ids; `None`: the commonest first token of the steered run and that of the
            plain one.
        continuations: texts or token ids, one a prompt, that both runs read after the offset token; `None`: the offset
            token alone.
        layers: which layers' streams are unembedded, `range(0, 30, 5)` say; `None`: all.
        controls: random vectors of the same norms; 0: none.
        top: tokens listed a layer and direction.
        seed: of the random vectors and of the bootstrap.
        chat, offset: as in `kv.generate`.
        batch_size: rows read together at most; fewer where their caches would exceed 1 GiB.
        progress: whether to show a bar.

    Returns:
        Three tables; see `Lens`.

    Raises:
        ValueError: a single prompt, zero vectors, a token that isn't one, or what `kv.score` refuses; before anything
            is computed. Logits that are NaN or infinite.
        KeyboardInterrupt: it was interrupted.
        UnsteerableModelError: logits that aren't a function of the last layer's output.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> prompts = [task.chat(q) for q in task.questions("dev", 2)]
        >>> lens = kv.analysis.logit_lens(model, prompts, steering, ["Step"], controls=0)
        >>> lens.tokens[["layer", "token", "n"]].values.tolist()
        [[0, 'Step', 2], [1, 'Step', 2], [2, 'Step', 2], [3, 'Step', 2]]
        >>> float(lens.tokens.change[0])  # layer 0 isn't edited, so nothing can differ there
        0.0
    """
    given = as_list(prompts)
    check_steering(model, steering, given)
    check_batch_size(batch_size)
    wanted = None if tokens is None else list(dict.fromkeys(token_id(model.tokenizer, t) for t in tokens))
    if wanted is not None and not wanted:
        raise ValueError(
            "The list of tokens is empty; name one, or leave it out for the steered and the plain run's first token."
        )
    targets = [] if continuations is None else match_continuations(model, given, continuations)[1]
    methods = [None, steering, *steering.controls(controls, seed)]
    rows = [rows_under(model, check_intervention(model, m), given, chat=chat, offset=offset) for m in methods]
    longest = max(map(len, targets), default=1)
    check_context(model, rows[0], longest)
    looked = check_indices("layer", layers, model.n_layers)
    check_unembedding(model)
    chosen = wanted if wanted is not None else list(dict.fromkeys(first_tokens(model, given, steering, chat, offset)))
    fit = rows_within(model, rows[0], longest, batch_size)
    parts = []
    with counted(len(given), "logit_lens", "prompt", progress) as done:
        for batch, part in in_batches(
            range(len(given)), max(1, fit // len(methods)), lambda b: _look(model, rows, targets, chosen, looked, b)
        ):
            parts.append(part)
            done(len(batch))
    return _tables(model, looked, chosen, parts, [len(t) for t in targets] or [0] * len(given), top, seed)


@dataclass(frozen=True)
class _Part:
    """Of some prompts and all methods (the plain run, steering, controls); continuations are padded to the longest."""

    logp: Float[Tensor, "prompts methods layers steps tokens"]
    kl: Float[Tensor, "prompts methods layers steps"]
    mass: Float[Tensor, "2 layers vocab"]
    """Summed over the prompts, the probabilities at step 0, plain and steered."""


@locked
@torch.no_grad()
def _look(
    model: Model,
    rows: Sequence[Sequence[Row]],
    targets: Sequence[Sequence[int]],
    chosen: Sequence[int],
    layers: Sequence[int],
    batch: Sequence[int],
) -> _Part:
    """The streams of all layers and steps from one trace; they are unembedded together, as many as may be held."""
    width = max(map(len, targets), default=0)
    following = (
        [[*targets[i], *[targets[i][-1]] * (width - len(targets[i]))] for i in batch for _ in rows] if width else None
    )
    tokens = None if following is None else torch.tensor(following, device=model.device)
    hidden, _ = read_residuals(model, [each[i] for i in batch for each in rows], tokens, layers=layers)
    places = hidden.flatten(1, 2)  # layer by layer, step by step
    logp: list[Tensor] = []
    divergence: list[Tensor] = []
    mass: list[Tensor] = []
    for some in places.split(max(1, logits_within(model.n_tokens) // len(hidden)), 1):
        for logits in unembed(model, some).float().unbind(1):  # distributions are wide: one place at a time
            each = logits.unflatten(0, (len(batch), len(rows)))
            log_p = each.log_softmax(-1)
            if len(logp) % (width + 1) == 0:
                mass.append(log_p[:, :2].exp().cpu().double().sum(0))
            logp.append(log_p[..., list(chosen)].cpu())
            divergence.append(kl_to_first(each).cpu())
    shape = (len(layers), width + 1)
    return _Part(
        torch.stack(logp, 2).unflatten(2, shape), torch.stack(divergence, 2).unflatten(2, shape), torch.stack(mass, 1)
    )


def _tables(
    model: Model,
    layers: Sequence[int],
    chosen: Sequence[int],
    parts: Sequence[_Part],
    lengths: Sequence[int],
    top: int,
    seed: int,
) -> Lens:
    logp, divergence = (
        torch.cat([p.logp for p in parts]).double().numpy(),
        torch.cat([p.kl for p in parts]).double().numpy(),
    )
    mass = torch.stack([p.mass for p in parts]).sum(0) / len(lengths)
    tokens, apart = [], []
    for step in range(divergence.shape[3]):
        long = np.array(lengths) >= step
        if long.sum() < 2:
            break
        for at, layer in enumerate(layers):
            where = dict(step=step, layer=layer, n=int(long.sum()))
            moved = divergence[long, :, at, step]
            apart.append(where | _estimate("kl", moved[:, 1], moved[:, 2:].mean(0), seed))
            for index, token in enumerate(chosen):
                each = logp[long, :, at, step, index]
                change = each - each[:, :1]
                means = dict(token=model.tokenizer.decode([token]), plain=each[:, 0].mean(), steered=each[:, 1].mean())
                told = _estimate("change", change[:, 1], change[:, 2:].mean(0), seed, LEAST_NATS)
                tokens.append(where | means | told)
    return Lens(pd.DataFrame(tokens), pd.DataFrame(apart), _top(model, layers, mass, top))


def _estimate(name: str, values: np.ndarray, controls: np.ndarray, seed: int, margin: float = 0.0) -> dict[str, float]:
    """A mean over prompts with its interval, and where the controls' means lie; a change may go either way, so sizes
    are compared.
    """
    found = paired_bootstrap(values.tolist(), np.zeros_like(values).tolist(), n=1000, seed=seed)
    row = {name: found.value, "low": found.low, "high": found.high}
    if len(controls):
        low, high = np.quantile(controls, [0.025, 0.975])
        p = control_p(abs(found.value), np.abs(controls).tolist(), margin)
        row |= dict(random=float(controls.mean()), random_low=float(low), random_high=float(high), p_random=p)
    return row


def _top(model: Model, layers: Sequence[int], mass: Float[Tensor, "2 layers vocab"], top: int) -> pd.DataFrame:
    rows = []
    for at, layer in enumerate(layers):
        change = mass[1, at] - mass[0, at]
        for direction, sign in (("up", 1), ("down", -1)):
            for rank, token in enumerate((sign * change).topk(min(top, len(change))).indices.tolist()):
                if sign * change[token] > 0:
                    plain, steered = (float(mass[side, at, token]) for side in (0, 1))
                    named = dict(layer=layer, direction=direction, rank=rank + 1, token=model.tokenizer.decode([token]))
                    rows.append(named | dict(plain=plain, steered=steered, change=steered - plain))
    return pd.DataFrame(rows, columns=["layer", "direction", "rank", "token", "plain", "steered", "change"])
