"""The tokens that a steering's value vectors promote: S^V W_O of each head, unembedded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..._util.batching import in_batches
from ..._util.progress import counted
from ...interventions.cache import CacheSteering
from ...models.attention import query_heads
from ...models.heads import head_writes
from ...models.model import Model
from ...stats.significance import control_p
from ...vectors.indices import check_indices
from ..budget import logits_within
from ..residual.unembedding import check_unembedding, unembed


def unembed_values(
    model: Model,
    steering: CacheSteering,
    top: int = 5,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    controls: int = 40,
    seed: int = 0,
    progress: bool = True,
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
        layers, heads: which steered layers, and which query heads of them; `None`: all.
        controls: random vectors of the same norm; 0: none.
        seed: of the random vectors.
        progress: whether to show a bar.

    Returns:
        One row per steered layer, query head and rank: `kv_head`, `norm` (the length of c_v S^V W_O), `token`, `logit`
        (less the mean over the vocabulary), and
        `random_high`, the 97.5% quantile of random vectors' own highest logit at that head, `p_random`, the share of
        them (plus one) that reach the logit there, and `p_family`, the share of them (plus one) that reach it at *any*
        head: the one to ask when the table is searched for words that stand out.

    Raises:
        ValueError: a steering without values in these layers and heads, or fewer than one token.
        KeyboardInterrupt: it was interrupted.
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
    n_heads = query_heads(model.hf)
    group = n_heads // model.n_kv_heads
    chosen = product(check_indices("layer", layers, model.n_layers), check_indices("query head", heads, n_heads))
    places = [(layer, head) for layer, head in chosen if layer in steering.edited_layers]
    places = [(layer, head) for layer, head in places if own[layer, head // group].any()]
    if not places:
        raise ValueError(
            f"{steering.label!r} adds nothing to values, so there is nothing to unembed; give it a cv and layers whose"
            " values differ."
        )
    check_unembedding(model)
    vectors = torch.stack([own, *(_values(control) for control in steering.controls(controls, seed))])
    found: dict[
        tuple[int, int], tuple[float, Tensor, np.ndarray]
    ] = {}  # by head: the norm, the best tokens' logits, each random vector's highest one
    best: dict[tuple[int, int], list[int]] = {}
    size = max(1, logits_within(model.n_tokens) // len(vectors))
    with counted(len(places), "unembed_values", "head", progress) as done:
        for some, (written, logits) in in_batches(places, size, lambda some: _unembed(model, vectors, some, group)):
            for place, directions, each in zip(some, written, logits, strict=True):
                values, tokens = each[0].topk(min(top, each.shape[1]))
                found[place] = (float(directions[0].norm()), values, each[1:].amax(1).numpy())
                best[place] = tokens.tolist()
            done(len(some))
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


def _unembed(
    model: Model,
    vectors: Float[Tensor, "n layers kv_heads head_dim"],
    places: Sequence[tuple[int, int]],
    group: int,
) -> tuple[Float[Tensor, "places n hidden"], Float[Tensor, "places n vocab"]]:
    """What the heads write with each vector, and its logits less their mean, in one trace."""
    written = torch.stack(
        [head_writes(model.hf, layer, head, vectors[:, layer, head // group]) for layer, head in places]
    )
    logits = unembed(model, written.flatten(0, 1).to(model.device)[:, None])[:, 0].float().cpu()
    return written, (logits - logits.mean(1, keepdim=True)).unflatten(0, written.shape[:2])
