"""Extraction: from the differences of single pairs, `kv.extract_pairs(...)`, to vectors. Every direction has, for each
layer and KV head, the norm of the mean difference, so that a coefficient means the same dose for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors

Pairs = Float[Tensor, "pairs layers kv_heads head_dim"]
Direction = Float[Tensor, "layers kv_heads head_dim"]


def mean_difference(differences: PairDifferences) -> KVVectors:
    """The mean difference, the paper's (Belitsky et al. 2025): v = mean_i d_i. Cost: n pairs read, O(n d).

    Args:
        differences: of each pair, `[pairs, layers, kv_heads, head_dim]`.

    Returns:
        As `kv.extract`.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> kv.methods.mean_difference(differences).values.shape
        torch.Size([4, 2, 32])
    """
    return differences.mean()


def first_component(differences: PairDifferences) -> KVVectors:
    """The first principal component of the differences, not centred (as repeng's `pca_diff`; Zou et al. 2023): the
    right singular vector of D, signed as the mean. Cost: an SVD `[n, d]` for each layer and head.

    Args:
        differences: of each pair.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> bool(kv.methods.first_component(differences).values.isfinite().all())
        True
    """
    return _each(
        differences, lambda d: torch.linalg.svd(_by_head(d), full_matrices=False).Vh[..., 0, :], "first component"
    )


def whitened(differences: PairDifferences, shrinkage: float = 0.1) -> KVVectors:
    """The linear discriminant of the differences (Fisher 1936): v = S^-1 mean_i d_i, with the covariance S of the
    differences shrunk towards a multiple of the identity. Cost: a solve of d x d for each layer and head.

    Args:
        differences: of each pair.
        shrinkage: 0: S alone; 1: the mean difference.

    Raises:
        ValueError: shrinkage outside of (0, 1].

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> same = kv.methods.whitened(differences, shrinkage=1.0).values - differences.mean().values
        >>> bool(same.abs().max() < 1e-4)
        True
    """
    if not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage={shrinkage!r} must be above 0 and at most 1.")

    def solve(d: Pairs) -> Direction:
        rows = _by_head(d)
        mean = rows.mean(-2)
        off = rows - mean[..., None, :]
        spread = off.transpose(-1, -2) @ off / rows.shape[-2]
        size = spread.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)[..., None, None]
        shrunk = (1 - shrinkage) * spread + shrinkage * size * torch.eye(rows.shape[-1], dtype=rows.dtype)
        return torch.linalg.solve(shrunk, mean)

    return _each(differences, solve, f"whitened, shrinkage {shrinkage:g}")


def logistic(differences: PairDifferences, penalty: float = 1.0, steps: int = 200) -> KVVectors:
    """The weights of a logistic probe that tells each pair's sides apart: min_w mean_i log(1 + exp(-w.d_i / s)) +
    penalty |w|^2 / 2, where s is the root mean square norm of the differences. Cost: `steps` gradient steps, O(n d)
    each.

    Args:
        differences: of each pair.
        penalty: of the weights' square.
        steps: of gradient descent at the rate that the curvature allows.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> bool((kv.methods.logistic(differences).values * differences.mean().values).sum() > 0)
        True
    """

    def descend(d: Pairs) -> Direction:
        rows = _by_head(d)
        rows = rows / rows.pow(2).sum(-1).mean(-1).sqrt().clamp_min(1e-12)[..., None, None]
        w = torch.zeros_like(rows[..., 0, :])
        for _ in range(steps):
            wrong = torch.sigmoid(-(rows @ w[..., None])[..., 0])
            w = w - (penalty * w - (wrong[..., None] * rows).mean(-2)) / (0.25 + penalty)
        return w

    return _each(differences, descend, f"logistic probe, penalty {penalty:g}")


def nearest_pair(differences: PairDifferences) -> KVVectors:
    """The one pair's difference that lies nearest to the mean, all layers together, by cosine: a vector of a real pair.
    Cost: O(n d).

    Args:
        differences: of each pair.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(kv.load("tiny"), pairs, progress=False)
        >>> kv.methods.nearest_pair(differences).values.shape
        torch.Size([4, 2, 32])
    """
    both = torch.stack([differences.keys, differences.values], 1).flatten(1).double()
    best = int(torch.nn.functional.cosine_similarity(both, both.mean(0, keepdim=True)).argmax())
    return _each(differences, lambda d: d[best].double(), f"pair {best}, the nearest to the mean")


def without(vectors: KVVectors, other: KVVectors) -> KVVectors:
    """Vectors with another direction projected out, for each layer and head: v - (v.u) u / |u|^2. With u the mean
    difference of several styles, it takes out what all of them share, the "format" direction. Cost: O(d).

    Args:
        vectors: what is kept.
        other: u; where it is zero, nothing is taken out.

    Raises:
        ValueError: vectors of different shapes.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> vectors = kv.extract(kv.load("tiny"), pairs, progress=False)
        >>> bool(kv.methods.without(vectors, vectors).values.abs().max() < 1e-5)
        True
    """
    if vectors.values.shape != other.values.shape:
        raise ValueError(
            f"The vectors are {tuple(vectors.values.shape)} and {tuple(other.values.shape)}; both must be of one model."
        )

    def rest(v: Tensor, u: Tensor) -> Tensor:
        return v - (v * u).sum(-1, keepdim=True) * u / u.pow(2).sum(-1, keepdim=True).clamp_min(1e-12)

    card = replace(vectors.card, history=(*vectors.card.history, "another direction projected out"))
    return KVVectors(rest(vectors.keys, other.keys), rest(vectors.values, other.values), card)


def _by_head(d: Pairs) -> Float[Tensor, "layers kv_heads pairs head_dim"]:
    return d.double().permute(1, 2, 0, 3)


def _each(differences: PairDifferences, find: Callable[[Pairs], Tensor], step: str) -> KVVectors:
    """Directions of keys and of values, with the mean's sign and norm."""
    found = []
    for part in (differences.keys, differences.values):
        mean = part.double().mean(0)
        direction = torch.nn.functional.normalize(find(part), dim=-1)
        sign = torch.where((direction * mean).sum(-1, keepdim=True) < 0, -1.0, 1.0)
        found.append((sign * direction * mean.norm(dim=-1, keepdim=True)).float())
    card = differences.mean().card
    return KVVectors(found[0], found[1], replace(card, history=(*card.history, step)))
