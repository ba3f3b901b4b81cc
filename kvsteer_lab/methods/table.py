"""What methods there are."""

from __future__ import annotations

import pandas as pd

from . import (
    clustering,
    components,
    gating,
    grams,
    heads,
    keys,
    learned_banks,
    learned_deltas,
    means,
    nearness,
    norms,
    orthogonal,
    parts,
    probes,
    projecting,
    retrieval,
    schedules,
    slots,
    whitening,
)

_BOTH = "cache, residual stream"
_METHODS = {
    means.mean_difference: "extraction; v = mean d_i; Belitsky et al. 2025; O(n d)",
    components.first_component: "extraction; v = first right singular vector of D; after Zou et al. 2023; SVD",
    whitening.whitened: "extraction; v = S^-1 mean d_i; Fisher 1936; d x d solve",
    probes.logistic: "extraction; v = argmin mean log(1 + exp(-w.d_i)) + c |w|^2 / 2; textbook; O(n d) a step",
    nearness.nearest_pair: "extraction; v = d_i nearest to the mean; our own; O(n d)",
    clustering.clustered: "extraction; v_j = mean of d_i in cluster j; code of Belitsky et al. 2025; k-means",
    projecting.without: "extraction; v - (v.u) u / |u|^2; textbook; O(d)",
    slots.several_slots: "extraction; v_s = mean d_i[s], s = -1 ... -m; our own; 2 n prompts read",
    learned_deltas.learned_delta: "extraction; min_v CE + c KL; after Dunefsky and Cohan 2025; two passes a step",
    learned_banks.learned_bank: "extraction; min_{K,V} CE + c KL; after Li and Liang 2021; two passes a step",
    parts.values_only: "steering; v^K = 0; Belitsky et al. 2025 (c_k = 0); none",
    parts.keys_only: "steering; v^V = 0; Belitsky et al. 2025 (c_v = 0); none",
    heads.best_heads: "steering; v in the n heads of largest mean |score|; our own; that of the scores",
    heads.largest_heads: "steering; v in the n largest heads of a layer; code of Belitsky et al. 2025; O(d)",
    schedules.scheduled: "steering; w_l v_l; our own; O(d)",
    orthogonal.key_orthogonal: "steering; v^K - B B^T v^K; after Luo et al. 2026 (SKOP); SVD",
    keys.key_projection: "steering; k + g P k; after Li et al. 2026 (SEKA); SVD, d x d a slot",
    grams.value_gram: "steering; v + g |v.c| c, c = B B^T mean d_i / |.|; after steering-lite; d x d eigenproblem",
    norms.norm_preserving: "steering; |x| (x + c v) / |x + c v|; our own; O(d)",
    norms.turned: "steering; |x| (cos a x + sin a u); after Vu and Nguyen 2025; O(d)",
    retrieval.retrieved: "steering; x + c d_i, i = argmax cos(x, x_i-); our own; O(n d) a prompt",
    gating.fit_gate: "gate; cos(x_l, u_l) >= t; after Lee et al. 2024 (CAST); one prefill a prompt",
}
_TWINS = {"mean_difference", "first_component", "whitened", "logistic", "nearest_pair", "without", "scheduled"}


def table() -> pd.DataFrame:
    """The methods of `kv.methods`: one row each, by name, with `kind`, `formula`, `source`, `cost` (d: a head's width,
    n: pairs) and `where` it acts.

    "after" means that the idea is taken over and the method isn't the source's own; how they differ is said in each
    method's documentation.

    Example:
        >>> import kvsteer_lab as kv
        >>> kv.methods.table().loc["mean_difference", "formula"]
        'v = mean d_i'
    """
    names = pd.Index([method.__name__ for method in _METHODS], name="method")
    rows = [
        (*said.split("; "), _BOTH if name in _TWINS else "cache")
        for name, said in zip(names, _METHODS.values(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["kind", "formula", "source", "cost", "where"], index=names)
