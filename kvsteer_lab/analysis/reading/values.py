"""The tokens that a steering's value vectors promote: S^V W_O of each head, unembedded."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ...interventions.cache import CacheSteering
from ...models.attention import query_heads
from ...models.heads import head_writes
from ...models.model import Model
from ...stats.significance import control_p
from ..residual.unembedding import check_unembedding, unembed


def unembed_values(
    model: Model, steering: CacheSteering, top: int = 5, *, controls: int = 40, seed: int = 0
) -> pd.DataFrame:
    """The likeliest tokens of each head if c_v S^V W_O, what it reads at the slot per unit of attention, were the whole
    residual stream.

    The model's own final norm takes the direction by itself: so its length doesn't matter, logits are in the units of a
    stream of normal size, and only their order and their distance to random vectors' mean something. Layers in between
    are left out: it is what a head would say alone, not its effect in the model.

    Args:
        model: from `kv.load`.
        steering: its values, layers, heads and the sign of `cv` count.
        top: tokens a head.
        controls: random vectors of the same norm; 0: none.
        seed: of the random vectors.

    Returns:
        One row per steered layer, query head and rank: `kv_head`, `norm` (the length of c_v S^V W_O), `token`, `logit`
        (less the mean over the vocabulary), and
        `random_high`, the 97.5% quantile of random vectors' own highest logit at that head, `p_random`, the share of
        them (plus one) that reach the logit there, and `p_family`, the share of them (plus one) that reach it at *any*
        head: the one to ask when the table is searched for words that stand out.

    Raises:
        ValueError: a steering without values in its layers and heads, or fewer than one token.
        UnsteerableModelError: heads that no plain projection takes, or logits that aren't a function of the last
            layer's output.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> table = kv.analysis.unembed_values(model, steering, top=1, controls=0)
        >>> list(table.columns), len(table)  # one row per query head of the steered layers 1, 2 and 3
        (['layer', 'head', 'kv_head', 'norm', 'rank', 'token', 'logit'], 12)
    """
    if not isinstance(steering, CacheSteering):
        raise ValueError(f"{type(steering).__name__} has no values to unembed; pass a kv.CacheSteering.")
    steering.check(model)
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}.")
    own = _values(steering)
    if not own.any():
        raise ValueError(
            f"{steering.label!r} adds nothing to values, so there is nothing to unembed; give it a cv and layers whose"
            " values differ."
        )
    check_unembedding(model)
    drawn = [_values(control) for control in steering.controls(controls, seed)]
    group = query_heads(model.hf) // model.n_kv_heads
    found: dict[
        tuple[int, int], tuple[float, Tensor, np.ndarray]
    ] = {}  # by head: the norm, the best tokens' logits, each random vector's highest one
    best: dict[tuple[int, int], list[int]] = {}
    for layer, head in product(steering.edited_layers, range(query_heads(model.hf))):
        if own[layer, head // group].any():
            written = head_writes(model.hf, layer, head, torch.stack([v[layer, head // group] for v in (own, *drawn)]))
            logits = _logits(model, written)
            values, tokens = logits[0].topk(min(top, logits.shape[1]))
            found[layer, head], best[layer, head] = (
                (
                    float(written[0].norm()),
                    values,
                    logits[1:].amax(1).numpy(),
                ),
                tokens.tolist(),
            )
    anywhere = np.max([highest for _, _, highest in found.values()], axis=0)
    rows = []
    for (layer, head), (norm, values, highest) in found.items():
        for rank, (token, logit) in enumerate(zip(best[layer, head], values.tolist(), strict=True)):
            row = dict(
                layer=layer,
                head=head,
                kv_head=head // group,
                norm=norm,
                rank=rank,
                token=model.tokenizer.decode([token]),
                logit=logit,
            )
            if len(highest):
                row |= dict(random_high=float(np.quantile(highest, 0.975)), p_random=control_p(logit, highest.tolist()))
                row["p_family"] = control_p(logit, anywhere.tolist())
            rows.append(row)
    return pd.DataFrame(rows)


def _values(steering: CacheSteering) -> Float[Tensor, "layers kv_heads head_dim"]:
    return steering.cv * steering.added.values


def _logits(model: Model, written: Float[Tensor, "n hidden"]) -> Float[Tensor, "n vocab"]:
    logits = unembed(model, written.to(model.device)[:, None])[:, 0].float().cpu()
    return logits - logits.mean(1, keepdim=True)
