"""What methods there are."""

from __future__ import annotations

import pandas as pd

from . import directions, keys, norms

_METHODS = (
    ("extraction", directions.mean_difference, "v = mean d_i", "Belitsky et al. 2025", "O(n d)"),
    ("extraction", directions.first_component, "v = first right singular vector of D", "Zou et al. 2023", "SVD"),
    ("extraction", directions.whitened, "v = S^-1 mean d_i", "Fisher 1936", "d x d solve"),
    ("extraction", directions.logistic, "v = argmin mean log(1 + exp(-w.d_i)) + c |w|^2 / 2", "probe", "O(n d) a step"),
    ("extraction", directions.nearest_pair, "v = d_i nearest to the mean", "baseline", "O(n d)"),
    ("extraction", directions.without, "v - (v.u) u / |u|^2", "projection", "O(d)"),
    ("steering", keys.key_projection, "k + g P k", "after SEKA", "SVD, d x d a slot"),
    ("steering", norms.norm_preserving, "|x| (x + c v) / |x + c v|", "norm-preserving", "O(d)"),
    ("steering", norms.turned, "|x| (cos a x + sin a u)", "after Vu and Nguyen 2025", "O(d)"),
)


def table() -> pd.DataFrame:
    """The methods of `kv.methods`: one row each, by name, with `kind`, `formula`, `source` and `cost` (d: a head's
    width, n: pairs).

    Example:
        >>> import kvsteer_lab as kv
        >>> kv.methods.table().loc["mean_difference", "formula"]
        'v = mean d_i'
    """
    rows = [(kind, formula, source, cost) for kind, _, formula, source, cost in _METHODS]
    names = pd.Index([method.__name__ for _, method, *_ in _METHODS], name="method")
    return pd.DataFrame(rows, columns=["kind", "formula", "source", "cost"], index=names)
