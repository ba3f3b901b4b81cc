"""Reliability of the mean difference: how fast it converges as pairs are added, and how stable it is between halves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from ...vectors.extraction import PairDifferences
from .checks import check_finite, check_single_pairs
from .grams import agreement, half_cosines, halves, pair_grams


def convergence(
    differences: PairDifferences, sizes: Sequence[int] | None = None, *, repeats: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Cosine between the mean of n random pairs and the mean of the pairs that were held out for comparison.

    Half of the pairs are held out once, so that no pair is compared with itself.

    Args:
        differences: from `kv.extract_pairs`.
        sizes: the n to try, at most half of the pairs; `None`: 1, 2, 5, 10, 20, 50 and so on, and half of them.
        repeats: random subsets for each n.
        seed: fixes the halves and the subsets.

    Returns:
        One row per size, repeat and part: `n`, `repeat`, `part` (`"keys"` or `"values"`, all layers together),
        `cosine`.

    Raises:
        ValueError: fewer than two pairs, a size beyond half of them, no repeats, differences that are zero, NaN or
            infinite.

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
        >>> table = kv.analysis.convergence(around(3.0), sizes=[1, 4], repeats=5)
        >>> mean = table[table.part == "values"].groupby("n").cosine.mean()
        >>> bool(mean[1] < mean[4])
        True
    """
    check_single_pairs(differences)
    total = len(differences)
    if total < 2:
        raise ValueError(f"Convergence needs at least two pairs, not {total}.")
    sizes = _sizes(sizes, total, "pairs")
    if repeats < 1:
        raise ValueError(f"A spread takes at least one random subset, not {repeats}.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(total, generator=generator)
    kept, held_out = order[: total // 2], order[total // 2 :]
    rows = []
    for part in ("keys", "values"):
        all_pairs = getattr(differences, part).flatten(1)
        check_finite(all_pairs, part)
        reference = all_pairs[held_out].mean(0)
        if not reference.any():
            raise ValueError(
                f"The mean difference of the {part} is zero; the two sides of the pairs don't differ there."
            )
        for n in sizes:
            for repeat in range(repeats):
                chosen = kept[torch.randperm(len(kept), generator=generator)[:n]]
                cosine = torch.cosine_similarity(all_pairs[chosen].mean(0), reference, dim=0)
                rows.append((n, repeat, part, float(cosine)))
    return pd.DataFrame(rows, columns=["n", "repeat", "part", "cosine"])


def split_half(
    differences: Mapping[str, PairDifferences],
    sizes: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    *,
    repeats: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Split-half stability against N: the cosine between the means of two random, disjoint groups of n pairs.

    Beside it stands what random signs give, which take away the common direction, and what the smallest size predicts
    for the larger ones (Spearman 1910, Brown 1910): k times as many pairs turn a cosine of c into k c / (1 + (k - 1)
    c). The formula holds for cosines as it does for tests where pairs are alike but for independent noise in many
    directions, since then the cosine is n r / (1 + n r) with r = |mu|^2 / tr(cov). Whether it holds can be read off the
    column `extrapolated` beside `stability`; only where it does may it be used beyond half of the pairs.

    Args:
        differences: by name, from `kv.extract_pairs`; of one model or several.
        sizes: the n to try, at most half of the pairs of each; `None`: 1, 2, 5, 10, 20, 50 and so on, and half of the
            smallest set's.
        layers: which layers, taken together so that each counts alike; `None`: all that hold differences.
        repeats: random halves for each n, each with its own random signs.
        seed: fixes halves and signs.

    Returns:
        One row per name, part and size: `pairs` (the name), `part`, `n`; `stability`, the mean over repeats (for n = 1
        over all pairs of pairs, so that what
        is predicted from it does not depend on the draw), and `low`, `high`, the middle 95% of the repeats;
        `flipped`, `flipped_low`, `flipped_high`, the same with random signs; `extrapolated` from the smallest size.

    Raises:
        ValueError: no pairs, a size beyond half of them, no repeats, or as `analysis.forecast`.

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
        >>> table = kv.analysis.split_half({"stepwise": around(3.0)}, sizes=[1, 4], repeats=10)
        >>> table[["part", "n"]].values.tolist()
        [['keys', 1], ['keys', 4], ['values', 1], ['values', 4]]
    """
    if not differences:
        raise ValueError("There are no pairs to split; pass {name: kv.extract_pairs(...)}.")
    if repeats < 1:
        raise ValueError(f"Stability takes at least one split, not {repeats}.")
    found = {name: pair_grams(own, layers) for name, own in differences.items()}
    sizes = _sizes(sizes, min(map(len, differences.values())), "pairs of the smallest set")
    rows = []
    for name, grams in found.items():
        together = [own for own in grams if own.layer is None]
        drawn = {n: _drawn(len(differences[name]), n, repeats, seed) for n in sorted(set(sizes))}
        for own in together:
            first: tuple[int, float] | None = None
            for n, (split, signs) in drawn.items():
                plain, flipped = (
                    half_cosines(own.gram, np.ones((1, len(own.gram))), weights)[0]
                    for weights in (split, split * signs)
                )
                mean = float(agreement(own.gram, np.ones((1, len(own.gram))))[0]) if n == 1 else float(plain.mean())
                first = first or (n, mean)
                columns = [(x.mean(), *np.quantile(x, [0.025, 0.975])) for x in (plain, flipped)]
                rows.append(
                    (name, own.part, n, mean, *columns[0][1:], *columns[1], _spearman_brown(first[1], n / first[0]))
                )
    names = ["pairs", "part", "n", "stability", "low", "high", "flipped", "flipped_low", "flipped_high", "extrapolated"]
    return pd.DataFrame(rows, columns=names)


def _sizes(sizes: Sequence[int] | None, most: int, of: str) -> list[int]:
    """The sizes asked for, or those that the pairs allow."""
    half = most // 2
    if sizes is None:
        steps = (first * 10**power for power in range(len(str(half))) for first in (1, 2, 5))
        return [*(n for n in steps if n < half), half]
    if len(sizes) == 0 or not all(isinstance(n, int | np.integer) and 1 <= n <= half for n in sizes):
        raise ValueError(
            f"Sizes must be whole numbers between 1 and {half}, half of the {most} {of}; leave sizes out for those"
            " that the pairs allow, or make more pairs."
        )
    return list(sizes)


def _drawn(pairs: int, n: int, repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n])
    return halves(pairs, n, repeats, rng), rng.choice((-1.0, 1.0), (repeats, pairs))


def _spearman_brown(cosine: float, times: float) -> float:
    return times * cosine / (1 + (times - 1) * cosine)
