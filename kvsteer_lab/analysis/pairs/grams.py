"""Agreement of single pairs with their mean, computed from the Gram matrix of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ...vectors.extraction import PairDifferences
from .checks import check_finite, check_layers, check_single_pairs

CACHE_PARTS = ("keys", "values")
_NOISE = 1e-5  # of the part's largest layer: less is rounding
_ROUNDING = 1e-12  # of a squared length in float64


class PairGram(NamedTuple):
    """One layer's keys or values, or with `layer=None` all chosen layers of a part together: d_i . d_j for all pairs i,
    j.
    """

    layer: int | None
    part: str
    gram: Float[np.ndarray, "pairs pairs"]  # float64


def pair_grams(
    differences: PairDifferences, layers: Sequence[int] | None = None, parts: Sequence[str] = CACHE_PARTS
) -> list[PairGram]:
    """The Gram matrices of every layer's keys and values in which something differs; each part's are followed by
    the one of its layers together.

    Together, every layer counts alike: it is divided by the mean square of its pairs' norms, so that no layer decides
    by its size.

    Args:
        differences: from `kv.extract_pairs`.
        layers: which layers; `None`: all. Values of layer 0 see the last token alone and are left out.
        parts: of `"keys"`, `"values"`.

    Raises:
        ValueError: fewer than two pairs, no layers, a layer that isn't there or holds no differences, NaN, an unknown
            part.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors.cards import Card
        >>> from kvsteer_lab.vectors.extraction import PairDifferences
        >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 8)
        >>> noise = torch.Generator().manual_seed(0)
        >>> def around(mean):  # eight pairs, two layers, one KV head of width 4
        ...     keys, values = (mean + torch.randn(8, 2, 1, 4, generator=noise) for _ in range(2))
        ...     return PairDifferences(keys, values, card)
        >>> [(gram.layer, gram.part) for gram in pair_grams(around(1.0), parts=["values"])]
        [(0, 'values'), (1, 'values'), (None, 'values')]
    """
    check_single_pairs(differences)
    if len(differences) < 2:
        raise ValueError(
            f"How far pairs agree can't be seen in {len(differences)} pair{'s' * (len(differences) != 1)}; take at"
            " least two."
        )
    if not parts or set(parts) - set(CACHE_PARTS):
        raise ValueError(
            f"Parts are 'keys' and 'values', not {', '.join(map(repr, parts)) or 'none'}; name one or both."
        )
    chosen = check_layers(layers, differences.keys.shape[1])
    found: list[PairGram] = []
    for part in parts:
        check_finite(getattr(differences, part), part)
        every = getattr(differences, part).double().flatten(2).numpy()
        size = np.linalg.norm(every, axis=2).max(0)
        own = [
            PairGram(layer, part, every[:, layer] @ every[:, layer].T)
            for layer in chosen
            if size[layer] > _NOISE * size.max()
        ]
        together = (
            [PairGram(None, part, np.sum([gram / gram.diagonal().mean() for _, _, gram in own], axis=0))] if own else []
        )
        found += own + together
    if layers is None and found:
        return found
    empty = set(chosen) - {own.layer for own in found}
    if empty:
        where = f"Layer {min(empty)} holds" if found else "The chosen layers hold"
        raise ValueError(
            f"{where} no differences between the sides of the pairs in {' or '.join(parts)}; choose layers above, or"
            " other pairs."
        )
    return found


def agreement(
    gram: Float[np.ndarray, "pairs pairs"], signs: Float[np.ndarray, "flips pairs"]
) -> Float[np.ndarray, " flips"]:
    """The mean cosine of two pairs' differences; a pair without a difference agrees with none."""
    size = np.sqrt(gram.diagonal())
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    cosines = gram * inverse[:, None] * inverse
    np.fill_diagonal(cosines, 0.0)
    return np.einsum("fi,ij,fj->f", signs, cosines, signs, optimize=True) / (len(gram) * (len(gram) - 1))


def signal_to_noise(
    gram: Float[np.ndarray, "pairs pairs"], signs: Float[np.ndarray, "flips pairs"]
) -> Float[np.ndarray, " flips"]:
    """(|m|^2 - e) / e with the mean m of N pairs and its squared standard error e = tr(cov) / N; infinite where all
    pairs are the same.
    """
    mean_square = gram.diagonal().mean()
    square = np.einsum("fi,ij,fj->f", signs, gram, signs, optimize=True) / len(gram) ** 2
    error = (mean_square - square) / (len(gram) - 1)
    return np.divide(square - error, error, out=np.full_like(square, np.inf), where=error > _ROUNDING * mean_square)


def halves(pairs: int, n: int, repeats: int, rng: np.random.Generator) -> Int[np.ndarray, "2 repeats pairs"]:
    """Which pairs are in the first and in the second of two random disjoint groups of `n`, as 0 and 1."""
    place = rng.permuted(np.tile(np.arange(pairs), (repeats, 1)), axis=1)
    return np.stack([place < n, (place >= n) & (place < 2 * n)]).astype(int)


def half_cosines(
    gram: Float[np.ndarray, "pairs pairs"],
    signs: Float[np.ndarray, "flips pairs"],
    split: Float[np.ndarray, "2 repeats pairs"] | Int[np.ndarray, "2 repeats pairs"],
) -> Float[np.ndarray, "flips repeats"]:
    """Cosines between the means of two groups of pairs, for each choice of signs; 0 where a mean cancels."""
    found = []
    for sign in signs:
        first, second = split * sign
        along = first @ gram
        inner = np.einsum("rp,rp->r", along, second)
        squares = np.einsum("rp,rp->r", along, first) * np.einsum("rp,pq,rq->r", second, gram, second, optimize=True)
        defined = squares > (_ROUNDING * gram.trace()) ** 2
        found.append(
            np.divide(inner, np.sqrt(np.where(defined, squares, 1.0)), out=np.zeros_like(inner), where=defined)
        )
    return np.clip(np.stack(found), -1.0, 1.0)
