"""Steering some KV heads only."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from ..edits.given import whole_number
from ..vectors.kv import KVVectors


def best_heads(vectors: KVVectors, scores: pd.DataFrame, n: int, by: str = "logit") -> KVVectors:
    """Vectors in the n KV heads, of all layers, that do most (our own; direct attribution): v where mean |score| is
    among the n largest, else 0. Choose on development prompts. Cost: that of the scores.

    Args:
        vectors: in all heads.
        scores: `layer`, `kv_head` and a column of scores; `kv.analysis.attribute_heads` makes such a table. Its
            controls are left out.
        n: how many heads stay.
        by: the column.

    Raises:
        ValueError: no such column, heads that the vectors haven't got, or n below 1 or above the number of heads.

    Example:
        >>> import kvsteer_lab as kv
        >>> import pandas as pd
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?"], ["Sum?"])
        >>> vectors = kv.extract(kv.load("tiny"), pairs, progress=False)
        >>> scores = pd.DataFrame({"layer": [1, 2], "kv_head": [0, 1], "logit": [0.1, -3.0]})
        >>> kv.methods.best_heads(vectors, scores, 1).values.norm(dim=-1).nonzero().tolist()
        [[2, 1]]
    """
    missing = {"layer", "kv_head", by} - set(getattr(scores, "columns", ()))
    if missing:
        raise ValueError(
            f"The scores lack {', '.join(sorted(missing))}; take the table of kv.analysis.attribute_heads."
        )
    own = scores[scores["control_of"].isna()] if "control_of" in scores else scores
    size = own[by].abs().groupby([own["layer"], own["kv_head"]]).mean().sort_values(ascending=False, kind="stable")
    if not 1 <= whole_number("The number of heads", n) <= vectors.n_layers * vectors.n_kv_heads:
        raise ValueError(f"n={n!r} must be 1 to {vectors.n_layers * vectors.n_kv_heads}, the number of KV heads.")
    kept = torch.zeros(vectors.n_layers, vectors.n_kv_heads, dtype=torch.bool)
    best = list(size.index)[:n]
    wrong = next((place for place in best if place[0] >= vectors.n_layers or place[1] >= vectors.n_kv_heads), None)
    if wrong is not None:
        raise ValueError(f"The scores have layer {wrong[0]}, KV head {wrong[1]}, which the vectors haven't got.")
    for layer, head in best:
        kept[int(layer), int(head)] = True
    return _kept(vectors, kept, f"the {n} heads of largest {by}")


def largest_heads(vectors: KVVectors, n: int) -> KVVectors:
    """Vectors in the n KV heads of each layer whose values are largest (the paper's code, `prune_steering_heads`): v
    where |v^V| is among the n largest of the layer, else 0. Cost: O(d).

    Args:
        vectors: in all heads.
        n: how many heads a layer stay.

    Raises:
        ValueError: n below 1 or above the number of KV heads.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?"], ["Sum?"])
        >>> one = kv.methods.largest_heads(kv.extract(kv.load("tiny"), pairs, progress=False), 1)
        >>> one.values.any(-1).sum(-1).tolist()
        [0, 1, 1, 1]
    """
    if not 1 <= whole_number("The number of heads", n) <= vectors.n_kv_heads:
        raise ValueError(f"n={n!r} must be 1 to {vectors.n_kv_heads}, the KV heads of a layer.")
    size = vectors.values.norm(dim=-1)
    kept = torch.zeros_like(size, dtype=torch.bool).scatter(1, size.topk(n).indices, True)
    return _kept(vectors, kept, f"the {n} largest heads of each layer")


def _kept(vectors: KVVectors, kept: Bool[Tensor, "layers kv_heads"], step: str) -> KVVectors:
    card = vectors.card.after(step)
    return KVVectors(vectors.keys * kept[..., None], vectors.values * kept[..., None], card)
